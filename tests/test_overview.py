"""The numbers beside the laws: errors by length, the heading, the table at the end, the committed page."""

import json
import re
from pathlib import Path

import pytest
import torch
from planted import CannotStream, FailsToBuild, Mean, StreamsPastItsTable, WrapsAround

from lab import conformance, numerics, overview, plugins
from lab.cli import main
from lab.conformance import check
from lab.laws import LAWS

PAGE = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text("utf-8")


class Coarse(Mean):
    """Off by a known part of the largest output, one part in each precision."""

    def forward(self, x):
        y = super().forward(x)
        off = {torch.float64: 0.0, torch.float32: 1e-3}[x.dtype] + 1e-2 * torch.is_autocast_enabled("cpu")
        return y + off * y.abs().max()


def test_errors_are_relative_to_the_largest_output():
    report = check(Coarse, laws=[4], lengths=(16, 300))
    assert [at.length for at in report.errors] == [16, 300]
    for at in report.errors:
        assert at.float32 == pytest.approx(1e-3, rel=0.01)
        assert at.float32_rms == pytest.approx(1e-3, rel=0.01)
        assert at.bfloat16 == pytest.approx(1e-2, rel=0.5)
    exact = check(Mean, laws=[4], lengths=(300,)).errors[0]
    assert max(exact.float32, exact.streaming) < 1e-5
    assert exact.float32_rms < exact.float32


@pytest.mark.parametrize(
    ("backbone", "cell"),
    [
        (StreamsPastItsTable, "refuses this length: 300 positions"),
        (WrapsAround, "IndexError: index 1024 is out of bounds (while forward of length 2,000"),
        (CannotStream, "NotImplementedError: not here"),
    ],
)
def test_a_cell_says_why_there_is_no_error(backbone, cell):
    report = check(backbone, laws=[4], lengths=(2000,))
    assert cell.replace("2,000", "2000") in report.errors[0].refused
    assert re.search(r"\n +2,000 +\S.*", str(report))


def test_the_heading_says_the_settings():
    assert str(check("lstm:mlp=none", laws=[4])).startswith("lstm:mlp=none: ")
    assert str(check("linear_rnn", laws=[4], settings={"normalise": False, "states": 8})).startswith(
        "linear_rnn:normalise=false,states=8: "
    )
    assert str(check(Mean, laws=[4])).startswith("Mean: ")


def lab(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    return caught.value.code, capsys.readouterr().out


def test_verbose_prints_a_table_and_json_has_it(monkeypatch, capsys):
    monkeypatch.setattr(numerics, "LENGTHS", (16, 64))
    monkeypatch.setattr(conformance, "LAWS", LAWS[-2:])
    code, out = lab(capsys, "check", "linear_rnn:gate=mingru", "--verbose")
    assert code == 0
    assert out.startswith("linear_rnn:gate=mingru: keeps every law\n")
    table = out[out.index("positions") :].split("\n")
    assert table[0].split() == ["positions", "float32", "rms", "streaming", "bfloat16", "rms"]
    assert [row.split()[0] for row in table[1:3]] == ["16", "64"]
    assert len({len(row) for row in table[1:3]}) == 1
    code, out = lab(capsys, "check", "linear_rnn:gate=mingru", "--json", "--verbose")
    found = json.loads(out)["linear_rnn:gate=mingru"]
    assert [law["law"] for law in found["laws"]] == [8, 9]
    assert [at["length"] for at in found["errors"]] == [16, 64]


def test_the_summary_has_a_row_each_and_a_column_a_law():
    reports = [check(Mean, laws=[1, 8], lengths=(16, 64)), check(WrapsAround, laws=[8], lengths=(16, 2000)), check(FailsToBuild)]
    head, *rows, _ = overview.summary(reports).splitlines()
    assert head.split() == [*(title for _, title, _ in LAWS), "float32", "bfloat16"]
    assert rows[0].split()[:9] == ["Mean", "✓", *"-----", "✓", "-"]
    assert rows[1].split()[:9] == ["WrapsAround", *"------", "✗", "-"]
    assert re.fullmatch(r"\de-\d\d", rows[1].split()[9])
    assert rows[2].split() == ["FailsToBuild", *"----------"]


def test_all_ends_with_the_summary(monkeypatch, capsys):
    names = plugins.names
    monkeypatch.setattr(plugins, "names", lambda kind: ["lstm"] if kind == "architectures" else names(kind))
    monkeypatch.setattr(overview, "LENGTHS", (16,))
    code, out = lab(capsys, "check", "--all")
    assert code == 0
    assert "positions   " not in out
    assert out.splitlines()[-2].split()[:9] == ["lstm", *"✓✓✓✓✓✓✓✓"]


def test_forms_are_the_choices_of_an_architecture():
    assert overview.forms("rwkv") == ["rwkv", "rwkv:version=4", "rwkv:version=5", "rwkv:version=6"]
    assert overview.forms("s4") == ["s4", "s4:kernel=diagonal", "s4:norm=instance"], "also what has no causal form"
    assert overview.forms("lstm") == ["lstm"]


def test_the_committed_page_names_every_architecture_and_every_law():
    head = next(line for line in PAGE.splitlines() if line.startswith("| as typed"))
    assert [title for _, title, _ in LAWS] == [cell.strip() for cell in head.split("|")][5:-3]
    typed = re.findall(r"^\| `([^`]+)` \| [\d,]+ \|", PAGE, re.M)
    assert typed == [form for name in plugins.names("architectures") for form in overview.forms(name)]


def test_a_page_is_written_whole(tmp_path, capsys):
    overview.main([str(tmp_path / "page.md"), "linear_rnn:gate=mingru,mlp=none"])
    text = (tmp_path / "page.md").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    row = next(line for line in text.splitlines() if line.startswith("| `linear_rnn:gate=mingru,mlp=none` |"))
    assert re.search(r" \| [\d,]+ \| [\d,]+ \| 128 \|( ✓ \|){8} \de-\d\d \| \de-\d\d \|$", row)
    assert "| `linear_rnn` | Linear recurrent unit" in text
