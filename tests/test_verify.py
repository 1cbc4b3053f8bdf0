"""`lab verify`: a run that the lab made is sound, and every edit that anything contradicts is found."""

import json
import shutil

import pytest
from test_cli import lab


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from lab import training
    from lab.planning import Planner, Shape
    from lab.run import Store

    root = tmp_path_factory.mktemp("made")
    spec = Planner(Shape(dim=16, depth=1), batch=2).plan("linear_rnn", "recall", 2e8, 0).spec
    training.train(spec, Store(root))
    return root / "runs" / spec.id


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs" / made.name)


def edit(folder, change, file="run.json"):
    record = json.loads((folder / file).read_text())
    change(record)
    (folder / file).write_text(json.dumps(record))


def verify(folder, capsys):
    code, out, err = lab("verify", folder.name, "--results", folder.parent.parent, capsys=capsys)
    assert err == ""
    return code, out


def test_what_the_lab_made_is_sound(copy, capsys):
    assert verify(copy, capsys) == (0, f"{copy.name}  sound\n")
    assert lab("verify", copy, capsys=capsys)[0] == 0
    assert lab("verify", "--all", "--results", copy.parent.parent, capsys=capsys)[0] == 0


EDITS = {
    "id": "0" * 16, "status": "diverged", "metric": "exact", "higher_is_better": False, "baselines": {"chance": 0.5},
    "references": [{"name": "x", "score": 1.0, "source": "y"}], "flops": 5, "flops_by_kind": {"contraction": 1},
    "flops_per_token": 3.5, "parameters": 12, "state_size": 3, "seconds": 1e6, "tokens": 64, "steps": 1,
    "planned_steps": 10**6, "reason": "bad luck", "schema": 2, "scores": {}, "evaluation_flops": -1, "peak_memory": -5,
    "throughput": {"64": -1.0}, "leak_gate": "maybe",
}  # fmt: skip


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_field_is_found(copy, capsys, field):
    edit(copy, lambda record: record.update({field: EDITS[field]}))
    code, out = verify(copy, capsys)
    assert code == 1
    assert all(line.startswith(copy.name) for line in out.splitlines())
    assert field.partition("_")[0] in out or field in ("scores", "schema")


@pytest.mark.parametrize("field", ["architecture", "settings", "dim", "depth", "task", "task_settings", "code", "data", "budget",
                                   "batch", "seed", "precision", "recipe"])  # fmt: skip
@pytest.mark.parametrize("file", ["run.json", "spec.json"])
def test_an_edited_spec_is_found(copy, capsys, field, file):
    def change(record):
        spec = record.get("spec", record)
        value = spec[field]
        if field == "precision":
            spec[field] = "bfloat16"
            return
        spec[field] = value + "x" if isinstance(value, str) else value | {"x": 1} if isinstance(value, dict) else value + 1

    edit(copy, change, file)
    code, out = verify(copy, capsys)
    assert code == 1
    assert f"differ in {field}" in out
    assert ("the spec's hash is" in out) == (file == "run.json")


@pytest.mark.parametrize(("name", "value"), [("accuracy", 1.5), ("loss", -0.1), ("accuracy[gap=8-15]", -1.0)])
def test_a_score_out_of_range_is_found(copy, capsys, name, value):
    edit(copy, lambda record: record["scores"]["test"].update({name: value}))
    code, out = verify(copy, capsys)
    assert (code, out.count("\n")) == (1, 1)
    assert f"score {name} on test is {value:g}, outside of 0 to" in out


@pytest.mark.parametrize("name", ["step", "tokens", "flops", "seconds", "loss"])
def test_an_edited_curve_is_found(copy, capsys, name):
    lines = (copy / "curve.jsonl").read_text().splitlines()
    row = json.loads(lines[2])
    row[name] = None if name == "loss" else 0
    (copy / "curve.jsonl").write_text("\n".join([*lines[:2], json.dumps(row), *lines[3:]]) + "\n")
    code, out = verify(copy, capsys)
    assert code == 1
    assert "curve.jsonl, line 3" in out


def test_a_cut_curve_and_files_that_are_no_json_are_found(copy, capsys):
    content = (copy / "curve.jsonl").read_text()
    (copy / "curve.jsonl").write_text(content[: content.rindex("{")])
    assert "curve.jsonl ends at step" in verify(copy, capsys)[1]
    (copy / "curve.jsonl").write_text(content[:-9])
    assert "cannot be read" in verify(copy, capsys)[1]
    (copy / "run.json").write_text((copy / "run.json").read_text()[:-9])
    code, out = verify(copy, capsys)
    assert (code, out.count("\n")) == (1, 1)
    assert "run.json is no JSON" in out


def test_records_of_changed_code_are_told_apart(copy, capsys, monkeypatch):
    from lab import plugins

    monkeypatch.setattr(plugins, "fingerprint", lambda *_: "another")
    assert "sound; FLOPs and data were not recomputed: the code in architectures and tasks has changed" in verify(copy, capsys)[1]


@pytest.mark.parametrize("argv", [[], ["nothing"], [".."], ["x", "--all"]])
def test_mistakes(tmp_path, capsys, argv):
    code, out, err = lab("verify", *argv, "--results", tmp_path, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
