"""Thirty faults, each with the test that injects it for real and sees what a user is told; and data that are no code."""

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import records
import torch
from test_cli import lab
from test_requests import PLUGIN
from test_store import SPEC

from lab import analysis, plugins
from lab.errors import UsageError
from lab.model import build_task
from lab.planning import Planner, Shape
from lab.run import Run, Store
from lab.training import train
from tasks.sources.shards import Shards

HERE = Path(__file__).parent
TINY = ("--dim", "8", "--depth", "1", "--batch", "2")
RUN = ("run", "--architecture", "linear_rnn", "--task", "recall", "--budget", "2e7", *TINY)

FAULTS = {
    1: ("kill -9 while a checkpoint is written", ["test_promises_are_kept"]),
    2: ("kill -9 between steps", ["test_an_interrupted_run_continues_bit_for_bit", "test_a_killed_worker_costs_nothing_but_time"]),  # noqa: E501
    3: ("disk full at a checkpoint", ["test_a_full_disk_costs_a_checkpoint_and_not_the_run"]),
    4: ("disk full at the results", ["test_a_write_that_fails_leaves_the_old_file_and_nothing_else"]),
    5: ("corrupt or truncated checkpoint", ["test_a_broken_one_is_noticed_and_the_one_before_is_used",
                                            "test_a_broken_checkpoint_goes_back_to_the_one_before",
                                            "test_without_a_whole_one_the_way_out_is_named"]),
    6: ("NaN or infinite loss or gradient", ["test_divergence_stops_the_run_and_is_recorded",
                                             "test_a_gradient_that_is_not_finite_stops_the_run"]),
    7: ("loss spike without NaN", ["test_a_spike_of_the_loss_is_kept_and_changes_nothing"]),
    8: ("out of memory, killed by the host", ["test_a_worker_that_is_always_killed_is_a_failed_run_with_its_signal"]),
    9: ("GPU out of memory", ["test_a_run_that_is_out_of_memory_fails_with_the_reason"]),
    10: ("SIGTERM", ["test_in_a_process_of_its_own"]),
    11: ("Ctrl-C", ["test_in_a_process_of_its_own"]),
    12: ("a run that is finished already", ["test_a_run_is_found_again_and_restarts_when_asked"]),
    13: ("two writers on one run", ["test_a_run_has_one_owner_and_a_killed_owner_lets_go"]),
    14: ("stale lock after a crash", ["test_a_run_has_one_owner_and_a_killed_owner_lets_go"]),
    15: ("clock jumps", ["test_a_clock_that_jumps_changes_nothing"]),
    16: ("truncated or garbage records", ["test_records_that_cannot_be_read_are_named_once_and_left_out",
                                          "test_a_broken_file_of_a_run_is_named_with_its_remedy",
                                          "test_a_garbage_record_of_the_very_run_is_told_and_replaced"]),
    17: ("malicious pickle as a checkpoint", ["test_code_in_a_checkpoint_is_not_run_though_its_sum_is_right"]),
    18: ("traversal in the names of plug-ins, runs, tasks", ["test_names_that_are_paths_are_refused",
                                                             "test_a_run_that_is_a_link_out_of_the_store_is_refused"]),
    19: ("plug-in raises at import, build or forward", ["test_a_plug_in_that_raises_is_named_with_its_file",
                                                        "test_a_distribution_that_raises_is_named_with_its_version",
                                                        "test_a_plug_in_that_fails_is_counted_and_the_others_go_on"]),
    20: ("huge numbers", ["test_numbers_out_of_range_are_refused_with_the_range", "test_a_run_too_large_for_memory_is_refused"]),
    21: ("negative, zero or NaN budget, or less than a step", ["test_a_mistake_is_one_line_and_leaves_nothing"]),
    22: ("unknown flag, key, architecture, task", ["test_a_mistake_is_one_line_and_leaves_nothing"]),
    23: ("non-ASCII paths and data, other locale", ["test_any_locale_does"]),
    24: ("read-only results folder", ["test_a_folder_that_cannot_be_written_is_named",
                                      "test_a_folder_without_permission_is_named"]),
    25: ("missing GPU", ["test_there_is_no_device_to_ask_for_and_the_record_says_which_it_was"]),
    26: ("data that are not what they were", ["test_changed_data_is_refused", "test_a_flipped_byte_of_the_cache_is_never_trained_on"]),  # noqa: E501
    27: ("records and checkpoints of another version", ["test_changed_code_is_another_run",
                                                        "test_records_of_changed_code_are_told_apart"]),
    28: ("lost node of a cluster", ["test_a_killed_worker_costs_nothing_but_time"]),
    29: ("logger service down", ["test_nothing_is_logged_to_a_service"]),
    30: ("hostile text in a report", ["test_markup_in_records_stays_text", "test_names_from_records_cannot_steer_the_terminal"]),
}  # fmt: skip


def known_tests():
    for file in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield node.name


def test_each_of_the_thirty_has_a_test_that_exists():
    assert list(FAULTS) == list(range(1, 31))
    known = set(known_tests())
    assert not [name for _, names in FAULTS.values() for name in names if name not in known]


def spec_of(architecture="linear_rnn", task="recall", steps=6, **changes):
    from lab.overhead import _spec_of

    return _spec_of(Planner(Shape(dim=8, depth=1), batch=2), architecture, task, steps)


def refused(*argv, capsys, code=2):
    found, out, err = lab(*argv, capsys=capsys)
    assert (found, out) == (code, ""), err
    assert err.startswith("lab: ")
    assert err.count("\n") == 1, err
    assert "a fault of the lab" not in err
    return err


# 7, 8, 9


def test_a_spike_of_the_loss_is_kept_and_changes_nothing(tmp_path, monkeypatch):
    """A spike is neither skipped nor smoothed; the curve has it."""
    from tasks.recall import Recall

    usual, calls = Recall.loss, []

    def spiking(self, predictions, targets):
        calls.append(1)
        return usual(self, predictions, targets) * (1000.0 if len(calls) == 4 else 1.0)

    spec, store = spec_of(), Store(tmp_path)
    monkeypatch.setattr(Recall, "loss", spiking)
    assert train(spec, store, leak_gate=False).steps == 6
    losses = [json.loads(line)["loss"] for line in (store.folder(spec.id) / "curve.jsonl").read_text().splitlines()]
    assert len(losses) == 6
    assert losses[3] > 100 * max(losses[:3])


@pytest.mark.timeout(900)
def test_a_worker_that_is_always_killed_is_a_failed_run_with_its_signal(tmp_path):
    from lab.engines import starter

    file = tmp_path / "heavy.py"
    action = "        if x.device.type != 'meta': __import__('os').kill(__import__('os').getpid(), 9)\n        return self.map(x)"
    file.write_text(PLUGIN.replace("        return self.map(x)", action))
    plugins.add_file(str(file))
    spec, ends = spec_of("heavy"), []
    pool = starter("local", 1, [str(file)])(Store(tmp_path / "r"))
    try:
        pool.carry_out([spec], lambda _, event: ends.append(event))
    finally:
        pool.close()
    record = Store(tmp_path / "r").find(spec.id)
    assert record["status"] == "failed"
    assert "its process ended 3 times: signal 9" in record["reason"]
    assert "--batch" in record["reason"]


def test_a_run_that_is_out_of_memory_fails_with_the_reason(tmp_path, capsys, monkeypatch):
    from tasks.recall import Recall

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Recall, "loss", full)
    code, out, err = lab(*RUN, "--results", tmp_path, capsys=capsys)
    assert code == 1
    assert "failed OutOfMemoryError: CUDA out of memory" in out
    assert "Traceback" not in out + err
    assert "Traceback" in next(tmp_path.glob("runs/*/log.txt")).read_text()


# 15, 16


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    import time

    jumps = iter([1e9, 5.0, -1e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    spec, store = spec_of(), Store(tmp_path)
    made = train(spec, store, leak_gate=False)
    seconds = [json.loads(line)["seconds"] for line in (store.folder(spec.id) / "curve.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= made.seconds < 600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"status": 3}', b"[" * 100_000, b"9" * 5000])
def test_a_garbage_record_of_the_very_run_is_told_and_replaced(tmp_path, content):
    store = Store(tmp_path)
    store.publish(Run(id=SPEC.id, spec=SPEC, status="done"))
    (store.folder(SPEC.id) / "run.json").write_bytes(content)
    with pytest.warns(UserWarning, match=f"{SPEC.id}/run.json cannot be read .*, and counts as missing"):
        assert not store.final(SPEC.id)
    store.publish(Run(id=SPEC.id, spec=SPEC, status="done", seconds=2.0))
    assert store.find(SPEC.id)["seconds"] == 2.0


# 18


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "con/../x", "x" * 300, "é", ".", "~", "a b", "$(touch x)"])
def test_names_that_are_paths_are_refused(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    refused("run", "--architecture", name, "--task", "recall", "--budget", "1e9", capsys=capsys)
    refused("run", "--architecture", "lstm", "--task", name, "--budget", "1e9", capsys=capsys)
    refused("new-architecture", name, capsys=capsys)
    refused("verify", name, capsys=capsys)
    refused("show", name, capsys=capsys)
    refused("list", "--plugin", name, capsys=capsys)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_a_link_out_of_the_store_is_refused(tmp_path, capsys, monkeypatch):
    spec = Planner(Shape(dim=8, depth=1), batch=2).plan("linear_rnn", "recall", 2e7, 0).spec
    (tmp_path / "r" / "runs").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "r" / "runs" / spec.id).symlink_to(tmp_path / "elsewhere")
    code, _, err = lab(*RUN, "--results", tmp_path / "r", capsys=capsys)
    assert code == 2
    assert "is a link that leads out of the store" in err
    assert not list((tmp_path / "elsewhere").iterdir())


# 19

WHERE = {
    "import": ("# more", "raise OSError('no licence')", 2, "failed to load: OSError: no licence"),
    "leave": ("# more", "raise SystemExit(0)", 2, "failed to load: SystemExit: 0"),
    "build": ("        super().__init__(dim, depth", "        raise RuntimeError('too hot')\n        super().__init__(dim, depth", 2,  # noqa: E501
              "RuntimeError: too hot"),
    "forward": ("        return self.map(x)", "        if x.device.type != 'meta': raise RuntimeError('too hot')\n        return x", 1,  # noqa: E501
                "RuntimeError: too hot"),
}  # fmt: skip


@pytest.mark.parametrize("when", WHERE)
def test_a_plug_in_that_raises_is_named_with_its_file(tmp_path, capsys, when):
    old, new, code, words = WHERE[when]
    file = tmp_path / f"bad_{when}.py"
    file.write_text(PLUGIN.replace(old, new))
    argv = ("run", "--architecture", file.stem, *RUN[3:], "--plugin", file, "--results", tmp_path / "r")
    found, out, err = lab(*argv, capsys=capsys)
    assert found == code, err
    assert "Traceback" not in out + err
    assert words in out + err
    assert str(file) in err
    assert file.name in (out if when == "forward" else err)
    assert (tmp_path / "r").exists() == (when == "forward")


def test_a_distribution_that_raises_is_named_with_its_version(tmp_path, monkeypatch):
    (tmp_path / "hot.py").write_text("raise RuntimeError('too hot')")
    info = tmp_path / "hot-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hot\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[lab.architectures]\nstove = hot\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.load.cache_clear()
    with pytest.raises(
        UsageError, match=r"stove: failed to load \(from hot 1\.5, hot\): RuntimeError: too hot \(hot\.py, line 1\)"
    ):
        plugins.load("architectures", "stove")
    assert plugins.load("architectures", "lstm")


def test_a_plug_in_is_named_when_it_is_loaded_and_recorded(tmp_path, capsys):
    from hashlib import sha256

    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    code, _, err = lab("run", "--architecture", "mine", *RUN[3:], "--plugin", file, "--results", tmp_path / "r", capsys=capsys)
    assert code == 0, err
    digest = sha256(file.read_bytes()).hexdigest()
    assert err.count(f"plug-in mine ({file}): the code of {file} (sha256 {digest[:12]}) runs with your rights\n") == 1
    record = json.loads(next(tmp_path.glob("r/runs/*/run.json")).read_text())
    assert record["environment"]["plugins"] == {"mine": {"from": str(file), "sha256": digest}}


# 20

HUGE = [
    ("compare", "--seeds", 10_000), ("compare", "--workers", 1024), ("run", "--seed", (1 << 32) - 1), ("run", "--threads", 1024),
    ("run", "--batch", 1 << 20), ("run", "--dim", 1 << 14), ("run", "--depth", 1024), ("show", "--dim", 1 << 14),
    ("show", "--length", 1 << 24), ("show", "--number", 1 << 31), ("prepare", "--workers", 1024), ("bench", "--tokens", 1 << 24),
    ("bench", "--lengths", 1 << 24), ("bench", "--decode", 1 << 24), ("bench", "--rounds", 10_000), ("bench", "--threads", 1024),
    ("bench loop", "--steps", 1 << 20), ("bench workers", "--workers", 1024),
    ("bench scans", "--lengths", 1 << 24), ("bench scans", "--states", 1 << 14), ("bench scans", "--threads", 1024),
]  # fmt: skip
REST = {"run": RUN[1:], "show": ("lstm",), "prepare": ("recall",), "compare": ("--architectures", "lstm", "--tasks", "recall")}


@pytest.mark.parametrize(("command", "flag", "most"), HUGE, ids=[f"{command} {flag}" for command, flag, _ in HUGE])
def test_numbers_out_of_range_are_refused_with_the_range(tmp_path, monkeypatch, capsys, command, flag, most):
    monkeypatch.chdir(tmp_path)
    given = [each for each in REST.get(command, ())]
    if flag in given:
        del given[given.index(flag) : given.index(flag) + 2]
    for value in (most + 1, 99999999999999999999, -1):
        err = refused(*command.split(), *given, f"{flag}={value}", capsys=capsys)
        assert f"{flag} {value}: must be from " in err
        assert f" to {most}" in err
    assert not list(tmp_path.iterdir())


def test_a_run_too_large_for_memory_is_refused(tmp_path, capsys):
    argv = ("run", "--architecture", "transformer", "--task", "recall", "--budget", "1e27", "--results", tmp_path / "r")
    err = refused(*argv, "--batch", 1 << 20, "--dim", 4096, capsys=capsys)
    assert "GiB" in err
    assert "--yes" in err
    assert "--batch" in err


# 23


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    ],
)
def test_any_locale_does(tmp_path, environment):
    text = tmp_path / "Größe ✓ 名"
    text.mkdir()
    (text / "ü.txt").write_text("".join(f"Zażółć gęślą jaźń, {line}. 日本語。\n" for line in range(400)), "utf-8")
    records.store(tmp_path / "r", tasks=("recall",), seeds=1)
    commands = (["show", f"text:path={text},length=16"], ["report", "--results", str(tmp_path / "r"), "--out", str(text / "ö")])
    for argv in commands if environment.get("PYTHONUTF8") else commands[1:]:
        done = subprocess.run([sys.executable, "-m", "lab", *argv], env=os.environ | environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert "transformer" in (text / "ö" / "report.html").read_text("utf-8")


# 25, 26, 27, 29


def test_there_is_no_device_to_ask_for_and_the_record_says_which_it_was(tmp_path, capsys):
    assert "--device" in refused(*RUN, "--device", "cuda", capsys=capsys)
    made = train(spec_of(), Store(tmp_path), leak_gate=False)
    assert made.environment["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")


def _rows(first, count):
    return np.arange(first, first + count, dtype=np.uint8)[:, None]


def test_a_flipped_byte_of_the_cache_is_never_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    kept = Shards("flipped", {}, 10, (1,), _rows)
    kept.ensure(0, 10)
    (shard,) = kept.folder.iterdir()
    whole = shard.read_bytes()
    shard.write_bytes(b"\x07" + whole[1:])
    with pytest.warns(UserWarning, match="its bytes are not those that were written; it is made again"):
        assert kept.rows(np.arange(10))[:, 0].tolist() == list(range(10))
    assert shard.read_bytes() == whole


def test_changed_code_is_another_run(tmp_path):
    ids = set()
    for number, change in enumerate(["", "VALUE = 1"]):
        file = tmp_path / str(number) / "changed.py"
        file.parent.mkdir()
        file.write_text(PLUGIN.replace("# more", change))
        plugins._files["architectures"]["changed"] = file
        plugins.load.cache_clear()
        ids.add(Planner(Shape(dim=8, depth=1)).plan("changed", "recall", 1e9, 0).spec.id)
    assert len(ids) == 2


def test_nothing_is_logged_to_a_service():
    """Lightning is told to have no logger, so there is none that could be down."""
    tree = ast.parse((HERE.parent / "lab" / "training.py").read_text("utf-8"))
    trainers = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "L.Trainer"]
    assert [{word.arg: ast.unparse(word.value) for word in call.keywords}["logger"] for call in trainers] == ["False"]


# 30, and data that are no code


def test_names_from_records_cannot_steer_the_terminal(tmp_path, capsys):
    hostile = "\x1b[2J\x1b]0;title\x07\u202emirrored\x9b31m"
    for seed in range(2):
        records.publish(tmp_path / "r", records.run(records.spec(f"mine:{hostile}", "recall", seed), 0.5, reason=hostile))
    folder = tmp_path / "r" / "runs" / f"x{hostile}"
    folder.mkdir()
    (folder / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="left out"):
        found = [lab("report", "--results", tmp_path / "r", "--out", tmp_path / "o", capsys=capsys)]
    found += [lab(*argv, "--results", tmp_path / "r", capsys=capsys) for argv in (("doctor",), ("verify", "--all"))]
    found.append(lab("show", hostile, capsys=capsys))
    for _, out, err in found:
        assert all(each.isprintable() or each == "\n" for each in out + err)
    assert "\\x1b[2J" in found[0][1]


def test_an_archive_is_never_unpacked(tmp_path, monkeypatch, capsys):
    """What would leave its folder when unpacked is bytes like any other, and no text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").write_text("evil")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write("evil", "../../escaped")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add("evil", "/tmp/../escaped", filter=lambda member: member)
    before = sorted(tmp_path.parent.rglob("*"))
    for name in ("evil.zip", "evil.tar"):
        assert "binary" in refused(
            "run", "--architecture", "lstm", "--task", f"text:path={name}", "--budget", "1e9", capsys=capsys
        )
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("line", ["../../../../etc passwd 0 1", "/etc passwd 0 1", "imgs", "imgs ../../../x.png 0 1", ""])
def test_a_list_of_images_names_files_below_it_only(tmp_path, line):
    folder = tmp_path / "curv_contour_length_14" / "metadata"
    folder.mkdir(parents=True)
    (folder / "0.npy").write_text(f"{line}\n")
    with pytest.raises(UsageError, match="names no file below it"):
        build_task("pathfinder", {"size": 32, "source": f"lra:{tmp_path}"})


def test_a_list_of_images_with_objects_inside_is_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    folder = tmp_path / "curv_contour_length_14" / "metadata"
    folder.mkdir(parents=True)
    np.save(folder / "0.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="allow_pickle=False"):
        build_task("pathfinder", {"size": 32, "source": f"lra:{tmp_path}"})
    assert not (tmp_path / "exploded").exists()


def test_a_record_cannot_make_verify_fetch_or_dig_for_ever(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    spec = records.spec("lstm", "recall", depth=10**9)
    Store(tmp_path).publish(records.run(spec, 0.5))
    code, out, _ = lab("verify", "--all", "--results", tmp_path, capsys=capsys)
    assert code == 1
    assert "must be from 1 to 1024" in out or spec.id in out
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert len(analysis.results(tmp_path)) == 1
