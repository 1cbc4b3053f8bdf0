"""Figures and the report: every store draws, the numbers are those of the frame, and nothing of a record is run as markup."""

import base64
import hashlib
import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import records
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lab import analysis
from lab.analysis.canvas import images, uncaptioned, write

FIGURES = ["accuracy_by_slice", "quality_against_flops", "quality_beyond_training", "quality_by_task", "speed_by_task",
           "throughput_against_length"]  # fmt: skip


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    root = tmp_path_factory.mktemp("usual")
    records.store(root)
    return analysis.results(root), analysis.curves(root)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    records.hostile(root)
    return analysis.results(root), analysis.curves(root)


@pytest.fixture(scope="module")
def page(usual, tmp_path_factory):
    material = analysis.Material(*usual)
    path = analysis.write_report(material, tmp_path_factory.mktemp("report"), "lab compare --budget 1e11 'a & b'")
    return path, path.read_text("utf-8")


class Tags(HTMLParser):
    """Every tag with its attributes, and whether tags close in order."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.seen, self.open, self.words = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def overlaps(chart):
    """Pairs of texts of a figure that cover one another, and texts that leave the paper."""
    chart.canvas.draw()
    paper = chart.bbox
    unseen = {id(text) for axes in chart.axes for text in hidden(axes)}
    found = {id(text): text for text in chart.findobj(Text)}
    shown = [text for key, text in found.items() if key not in unseen and text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    out = [words for words, box in boxes if box.x0 < -1 or box.y0 < -1 or box.x1 > paper.x1 + 1 or box.y1 > paper.y1 + 1]
    crossing = [
        (one, other)
        for i, (one, a) in enumerate(boxes)
        for other, b in boxes[:i]
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1.5
    ]
    return out, crossing


def hidden(axes):
    """Labels of ticks outside the axis' range, and everything of a panel that is not shown."""
    if not axes.get_visible():
        yield from axes.findobj(Text)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.majorTicks, *axis.minorTicks):
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("store", ["usual", "hostile"])
def test_every_figure_draws_and_no_text_covers_another(name, store, request):
    frame, curves = request.getfixturevalue(store)
    arguments = (frame, curves) if name == "quality_against_flops" else (frame,)
    chart = getattr(analysis, name)(*arguments)
    assert isinstance(chart, Figure)
    assert len(chart.data)
    assert len(chart.alt) > 40
    for words in ("1e11 training FLOPs", "Seeds 0 to 2", "float32", "contraction + mixing, training = 3 x forward", "finished, "):
        assert words in chart.caption
    assert overlaps(chart) == ([], [])


def test_files_are_the_same_twice_and_hold_the_numbers(usual, tmp_path):
    frame, curves = usual
    frame = frame[frame["task"] == "copying"]
    first = analysis.draw_all(analysis.Material(frame, curves), tmp_path / "a")
    second = analysis.draw_all(analysis.Material(frame.sample(frac=1, random_state=0), curves), tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    assert {path.stem for path in first if path.suffix == ".png"} == {*FIGURES, "flop_breakdown"}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    drawn = pd.read_csv(tmp_path / "a" / "quality_by_task.csv")
    scores = drawn[drawn["status"] == "done"].set_index(["column", "row", "seed"])["score"]
    for _, run in frame[frame["status"] == "done"].iterrows():
        assert scores[run["task"], run["architecture"], run["seed"]] == pytest.approx(run["score"])
    assert set(drawn["status"]) == {"done", "diverged", "baseline"}
    svg = (tmp_path / "a" / "quality_by_task.svg").read_text("utf-8")
    assert ElementTree.fromstring(svg) is not None
    assert ">transformer<" in svg
    assert "Score on the test split" in svg


def test_the_page_shows_a_figure_without_the_paper_of_its_caption(usual, tmp_path):
    chart = analysis.quality_by_task(usual[0])
    png, svg = write(chart, chart.data, tmp_path, "one", chart.caption)[:2]
    (plain,) = images(chart, ["png"])
    files = uncaptioned(chart, png), png.read_bytes(), plain
    shown, whole, expected = (np.asarray(Image.open(io.BytesIO(file))) for file in files)
    assert len(shown) == len(expected) < len(whole)
    assert np.abs(shown.astype(float) - expected).mean() < 2
    root = ElementTree.fromstring(uncaptioned(chart, svg))
    height = chart.get_figheight() * 72
    assert root.get("height") == f"{height:g}pt"
    assert [float(each) for each in root.get("viewBox").split()] == pytest.approx([0, 0, chart.get_figwidth() * 72, height])


def test_training_curves_are_means_of_every_step_in_so_much_of_a_decade(usual):
    frame, curves = usual
    drawn = analysis.quality_against_flops(frame, curves).data
    keys = ["task", "architecture", "seed"]
    recorded = {key: run.sort_values("step") for key, run in curves.groupby(keys)}
    for (column, row, seed), line in drawn.groupby(["column", "row", "seed"]):
        run = recorded[column, row, seed]
        weights = np.diff(run["step"], prepend=0)
        assert line["step"].iloc[-1] == run["step"].iloc[-1]
        gaps = np.diff(line["step"], prepend=0)
        assert (line["loss"] * gaps).sum() == pytest.approx((run["loss"] * weights).sum())
        inner = np.diff(np.log10(line["flops"].astype(float)))
        assert len(line) <= 1 + 12 * np.log10(run["flops"].iloc[-1] / run["flops"].iloc[0]) + 1
        assert (inner > 0).all()


def test_writing_leaves_the_figure_as_it_was(usual, tmp_path):
    chart = analysis.quality_by_task(usual[0])
    chart.canvas.draw()
    size, texts = tuple(chart.get_size_inches()), len(chart.texts)
    one = analysis.write(chart, chart.data, tmp_path, "a", chart.caption)
    two = analysis.write(chart, chart.data, tmp_path, "b", chart.caption)
    assert tuple(chart.get_size_inches()) == size
    assert len(chart.texts) == texts
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_store_in_which_nothing_finished_has_a_report(tmp_path, status):
    for seed in range(2):
        lost = replace(records.run(records.spec(seed=seed), None), status=status, scores={}, metric="", steps=0, tokens=0,
                       flops=0,
                       seconds=0.0, parameters=0, throughput={}, baselines={})  # fmt: skip
        records.Store(tmp_path).publish(lost)
    frame = analysis.results(tmp_path)
    assert analysis.throughput_against_length(frame) is None
    assert analysis.quality_beyond_training(frame) is None
    assert analysis.quality_against_flops(frame, analysis.curves(tmp_path)) is None
    material = analysis.Material(frame, analysis.curves(tmp_path))
    page = analysis.write_report(material, tmp_path / "report", "lab run").read_text("utf-8")
    assert "no run has a score" in page
    assert f"{status} 2/2" in page


def test_lines_over_training_lengths_where_no_measurement_was_recorded(tmp_path):
    for task, length in (("text:length=64", 64), ("text", 256)):
        one = records.run(records.spec(task=task), 2.5, throughput={})
        records.publish(tmp_path, replace(one, tokens=one.steps * one.spec.batch * length))
    chart = analysis.throughput_against_length(analysis.results(tmp_path))
    assert list(chart.data["length"]) == [64, 256]
    assert set(chart.data["panel"]) == {"text"}


def test_one_run_alone_draws_and_reports(tmp_path):
    records.publish(tmp_path, records.run(records.spec("mine", "other", 0), 0.5, throughput={}))
    frame = analysis.results(tmp_path)
    files = analysis.draw_all(analysis.Material(frame, analysis.curves(tmp_path)), tmp_path / "f")
    assert "accuracy_by_slice" not in {path.stem for path in files}
    material = analysis.Material(frame, analysis.curves(tmp_path))
    assert "only mine has a score" in analysis.write_report(material, tmp_path / "r", "lab").read_text("utf-8")


def test_names_with_dollars_are_not_mathematics(tmp_path):
    records.publish(tmp_path, records.run(records.spec("mine:$x^2$=1", "text:path=$HOME_/a", 0), 2.5))
    frame = analysis.results(tmp_path)
    analysis.draw_all(analysis.Material(frame, analysis.curves(tmp_path)), tmp_path / "f")
    assert "$x^2$" in (tmp_path / "f" / "quality_by_task.svg").read_text("utf-8")


def test_the_report_is_one_whole_file_that_asks_for_nothing(page):
    path, text = page
    tags = Tags(text)
    sources = [value for _, attrs in tags.seen for name, value in attrs.items() if name in ("src", "href")]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    images = [attrs for tag, attrs in tags.seen if tag == "img"]
    assert len(images) == len(list((path.parent / "figures").glob("*.csv"))) > len(FIGURES)
    assert all(len(image["alt"]) > 40 for image in images)
    for image in images:
        kind, _, content = image["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert ElementTree.fromstring(base64.b64decode(content)) is not None
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert {file.name for file in (path.parent / "figures").iterdir()} >= {f"{name}.csv" for name in FIGURES}


def test_the_report_says_what_was_done(page):
    words = " ".join(" ".join(Tags(page[1]).words).split())
    for said in ("lab compare --budget 1e11 'a & b'", "transformer leads", "0.868 ± 0.005", "order-3 n-gram",
                 "loss was nan at step 121",
                 "MemoryError: out of memory", "positions are learned up to 128", "Example CPU @ 2.50GHz", "2.13.0",
                 "9f2c41aa7b",
                 records.ENVIRONMENT["commit"], "t-interval", "Holm",
                 "34 of 36 runs finished, 1 diverged, 1 failed"):  # fmt: skip
        assert said in words, said
    assert words.index("What the scores say") < words.index("order-3 n-gram") < words.index("How it was made")


def test_markup_in_records_stays_text(hostile, tmp_path):
    frame, curves = hostile
    frame = frame.assign(refused=[{"<img src=x>": "<b onclick=y>"}] * len(frame))
    material = analysis.Material(frame, curves)
    text = analysis.write_report(material, tmp_path, "lab '</pre><script>alert(3)</script>'").read_text("utf-8")
    tags = Tags(text)
    assert [tag for tag, _ in tags.seen].count("script") == 1
    assert not any("onclick" in attrs for _, attrs in tags.seen)
    assert "x" not in [attrs.get("src") for _, attrs in tags.seen]
    words = " ".join(tags.words)
    for number in (1, 2, 3):
        assert f"<script>alert({number})</script>" in words
        assert f"&lt;script&gt;alert({number})" in text


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one run"):
        analysis.write_report(analysis.Material(analysis.results(tmp_path), analysis.curves(tmp_path)), tmp_path / "r", "lab")
    assert analysis.draw_all(analysis.Material(analysis.results(tmp_path), analysis.curves(tmp_path)), tmp_path / "f") == []
    assert not (tmp_path / "r").exists()
