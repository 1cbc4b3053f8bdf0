"""The faults of the soak in small, each for real; `make soak` does them hundreds of times."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from soak import checkpoints, commands, records, resume, storm
from soak.tally import Tally
from soak.ways import VARIANTS, cases

pytestmark = pytest.mark.timeout(900)


def held(tally):
    assert tally.held, tally
    assert tally.tried


@pytest.mark.parametrize(
    ("inflict", "scale"),
    [
        (checkpoints.kills, 0.04),
        (checkpoints.damages, 0.05),
        (storm.one_machine, 0.015),
        (commands.disks, 0.14),
        (records.divergence, 0.2),
        (records.budgets, 0.05),
        (records.edits, 0.1),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_promises_are_kept(tmp_path, inflict, scale):
    held(inflict(scale, 0, tmp_path))


IN_SMALL = ("dropout", "accumulation")
"""The rest of the ways of training takes longer."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in IN_SMALL else pytest.mark.slow) for case in cases() if case in VARIANTS]
)
def test_a_killed_run_is_the_run(tmp_path, case):
    held(resume.soak(case, 0.1, 0, tmp_path))


@pytest.mark.parametrize(
    ("fault", "scale"),
    [("resume noise of every generator", 0.1), ("run-signals", 0.2), pytest.param("run-signals", 1, marks=pytest.mark.slow)],
)
def test_in_a_process_of_its_own(fault, scale):
    """The checks of types in tests draw from Python's generator, and what a killed command says must not be captured here."""
    command = [sys.executable, "-m", "soak", "--one", fault, "--scale", str(scale)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    held(Tally(**json.loads(done.stdout.splitlines()[-1])))
