"""The faults of the soak in small, each for real; `make soak` does them hundreds of times."""

import pytest
from soak import checkpoints, commands, records, resume, storm
from soak.ways import VARIANTS, cases

from lab import stopping

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
        (records.budgets, 0.1),
        (records.edits, 0.1),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_promises_are_kept(tmp_path, inflict, scale):
    held(inflict(scale, 0, tmp_path))


@pytest.mark.parametrize("case", ["noise of every generator", *(case for case in cases() if case in VARIANTS)])
def test_a_killed_run_is_the_run(tmp_path, case):
    held(resume.soak(case, 0.1, 0, tmp_path))


def test_a_signal_ends_a_run_and_the_printed_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 1.0)
    held(commands.signals(0.4, 1, tmp_path))
