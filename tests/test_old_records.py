"""Records of every past form stay readable, what is not known in them is kept, and what a newer lab wrote is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
from test_cli import lab

from lab.analysis import curves, results
from lab.doctor import examine
from lab.planning import Planner, Shape
from lab.run import Run, Spec, Store
from lab.verification import verify

OLD = Path(__file__).parent / "fixtures" / "records"
FOLDERS = sorted((OLD / "runs").iterdir())
CAME_LATER = ("throughput", "references", "leak_gate")


@pytest.fixture
def store(tmp_path):
    return Store(shutil.copytree(OLD, tmp_path / "r"))


def test_there_is_one_of_every_form():
    forms = {tuple(name in json.loads((folder / "run.json").read_text()) for name in CAME_LATER) for folder in FOLDERS}
    assert forms == {(False,) * 3, (True, False, False), (True, True, False), (True, True, True)}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_old_record_is_sound(folder):
    assert Spec.read(json.loads((folder / "spec.json").read_text())).id == folder.name
    verdict = verify(folder)
    assert not verdict.faults, verdict


def test_old_records_are_rows_of_a_frame_with_curves(store):
    frame = results(store.root)
    assert list(frame["id"].sort_values()) == [folder.name for folder in FOLDERS]
    assert frame["score"].notna().all()
    assert all(isinstance(each, dict) for each in frame["throughput"])
    assert all(isinstance(each, list) for each in frame["references"])
    assert set(frame["leak_gate"]) == {"", "passed"}
    points = curves(store.root)
    assert set(points["id"]) == set(frame["id"])
    assert points.groupby("id")["step"].max().to_dict() == frame.set_index("id")["steps"].to_dict()
    assert not [line for line in examine(str(store.root)) if str(store.root) in line and "free" not in line]


def test_keys_that_are_not_known_are_kept(store):
    file = store.folder(FOLDERS[0].name) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"mood": {"of": "the day"}}))
    assert store.find(FOLDERS[0].name)["mood"] == {"of": "the day"}
    store.publish(Run(id=FOLDERS[0].name, spec=Spec.read(json.loads((FOLDERS[0] / "spec.json").read_text())), status="failed"))
    assert json.loads(file.read_text())["mood"] == {"of": "the day"}
    assert len(results(store.root)) == len(FOLDERS)
    assert not verify(file.parent).faults


def newer(root):
    """A store whose only run, that of `ARGUMENTS`, was written by a newer lab."""
    spec = Planner(Shape(dim=8, depth=1)).plan("linear_rnn", "recall", 1e8, 0).spec
    Store(root).publish(Run(id=spec.id, spec=spec, status="done", schema=99))
    return spec.id


ARGUMENTS = ["--dim", "8", "--depth", "1", "--budget", "1e8"]
WORDS = "made by a newer lab: schema 99, this one reads 1"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["run", "--architecture", "linear_rnn", "--task", "recall", *ARGUMENTS], 2),
        (["compare", "--architectures", "linear_rnn", "--tasks", "recall", "--seeds", "1", "--workers", "1", *ARGUMENTS], 2),
        (["verify", "--all"], 1),
        (["doctor"], 1),
        (["plot"], 2),
        (["report"], 2),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
@pytest.mark.filterwarnings("always:1 records left out")
def test_a_record_of_a_newer_lab_is_refused_by_name(tmp_path, capsys, recwarn, command, code):
    run_id = newer(tmp_path)
    before = (tmp_path / "runs" / run_id / "run.json").read_text()
    found, out, err = lab(*command, "--results", tmp_path, capsys=capsys)
    said = " ".join([out, err, *(str(each.message) for each in recwarn)])
    assert found == code, said
    assert WORDS in said
    assert run_id in said
    assert "Traceback" not in said
    assert (tmp_path / "runs" / run_id / "run.json").read_text() == before


def test_a_spec_with_what_a_newer_lab_decides_is_refused_by_name(store):
    folder = store.folder(FOLDERS[0].name)
    for file in ("spec.json", "run.json"):
        record = json.loads((folder / file).read_text())
        record.get("spec", record)["gravity"] = 9.81
        (folder / file).write_text(json.dumps(record))
    assert "gravity: made by a newer lab" in str(verify(folder))
    assert any("gravity: made by a newer lab" in line for line in examine(str(store.root)))
