"""What a process is started with: the lab's settings reach those which it starts, are recorded, and do what they are for."""

import json
import os
import subprocess
import sys

import pytest

from lab.process import JOINED, MALLOC, SPIN, TURNS, UNTUNED

SMALL = ["--budget", "1e7", "--dim", "8", "--depth", "1", "--batch", "2"]
STEPS = """
import lab.machine, torch
from lab.speed import Stand
lab.machine.tune()
torch.set_num_threads(1)
model, x = Stand("mamba:version=1").build(), torch.randn(4, 1024, 128)
before = lab.machine.peak_memory()
for _ in range(4):
    model(x).square().mean().backward()
print(lab.machine.peak_memory() - before)
"""


def python(*argv, **chosen):
    """What a process prints that was started with none of the settings but those that are chosen."""
    plain = {name: value for name, value in os.environ.items() if name not in (SPIN, "OMP_WAIT_POLICY", MALLOC, UNTUNED)}
    return subprocess.run([sys.executable, *argv], env=plain | chosen, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("first", "chosen", "expected"),
    [
        ("lab", {}, [TURNS, JOINED]),
        ("torch, lab", {}, [None, None]),
        ("lab", {SPIN: "5"}, ["5", JOINED]),
        ("lab", {"OMP_WAIT_POLICY": "active"}, [None, JOINED]),
        ("lab", {MALLOC: "glibc.malloc.perturb=1"}, [TURNS, "glibc.malloc.perturb=1"]),
        ("lab", {UNTUNED: "1"}, [None, None]),
    ],
)
def test_processes_are_started_with_the_settings_unless_someone_chose_otherwise(first, chosen, expected):
    code = f"import {first}, json, os; print(json.dumps([os.environ.get(name) for name in ('{SPIN}', '{MALLOC}')]))"
    assert json.loads(python("-c", code, **chosen)) == expected


@pytest.mark.parametrize(("more", "tuned"), [([], True), (["--untuned"], False)])
def test_records_say_what_a_process_was_started_with(tmp_path, more, tuned):
    """The process of `lab run` is the user's own: malloc's setting comes too late for it."""
    given = [*SMALL, "--results", str(tmp_path), *more]
    python("-m", "lab", "run", "--architecture", "linear_rnn", "--task", "recall", *given)
    python("-m", "lab", "compare", "--architectures", "gru", "--tasks", "recall", "--workers", "1", *given)
    written = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json")]
    records = {record["spec"]["architecture"]: record for record in written}
    for architecture, joined in (("linear_rnn", False), ("gru", tuned)):
        process = records[architecture]["environment"]["process"]
        assert (process["threads_wait_briefly"], process["malloc_joins_blocks"]) == (tuned, joined)


@pytest.mark.parametrize(("more", "tuned"), [([], True), (["--untuned"], False)])
def test_a_bench_says_how_what_it_measured_was_started(tmp_path, more, tuned):
    """Not how it was started itself."""
    python("-m", "lab", "bench", "--architectures", "linear_rnn", "--dim", "8", "--depth", "1", "--lengths", "8", "--decode", "8",
           "--tokens", "16", "--rounds", "1", "--out", str(tmp_path), *more)  # fmt: skip
    process = json.loads((tmp_path / "machine.json").read_text())["process"]
    done = [process[name] for name in ("malloc_keeps_blocks", "malloc_joins_blocks", "threads_wait_briefly")]
    assert done == [tuned] * 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_blocks_that_are_joined_take_less_memory():
    """The same training steps; a fifth less where this was written, and no less would mean that the setting does nothing."""
    plain, joined = (int(python("-c", STEPS, **{MALLOC: value})) for value in ("", JOINED))
    assert joined < 0.92 * plain
