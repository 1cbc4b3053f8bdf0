"""The local engine: what is begun when, by the memory and the GPUs there are."""

from collections import deque
from dataclasses import replace

import pytest
import torch
from test_store import SPEC

from lab import machine, memory
from lab.engines import local
from lab.engines.child import Child, Orders
from lab.errors import UsageError

GIB = 1 << 30


class Played(Child):
    """A worker that ends a run when it is told to."""

    def __init__(self, orders, tell, gpu=None):
        self.tell, self.gpu, self.in_hand = tell, gpu, deque()

    def hand(self, spec):
        self.in_hand.append(spec)

    def end_run(self):
        self.in_hand.popleft()
        self.tell((self, {"event": "end", "status": "done"}))


@pytest.fixture
def engine(monkeypatch):
    """Three workers on a machine with 10 GiB free, and runs that need as many GiB as they have layers."""
    monkeypatch.setattr(local, "Child", Played)
    monkeypatch.setattr(machine, "free_memory", lambda: 10 * GIB)
    monkeypatch.setattr(memory, "peak", lambda spec, room: spec.depth * GIB)
    return local.Local(3, Orders("results"))


def runs(*sizes):
    return [replace(SPEC, depth=size, seed=seed) for seed, size in enumerate(sizes)]


def going_on(engine):
    return sorted(spec.depth for spec, _ in engine._busy.values())


def test_a_run_waits_for_memory_and_keeps_its_place(engine):
    engine.submit(runs(6, 5, 1))
    assert going_on(engine) == [6], "5 GiB more do not fit, and the small one does not overtake"
    next(iter(engine._busy)).end_run()
    assert [event["event"] for _, event in engine.events()] == ["end"]
    assert going_on(engine) == [1, 5]


def test_what_fits_is_begun_at_once(engine):
    engine.submit(runs(3, 3, 4))
    assert going_on(engine) == [3, 3, 4]


def test_a_run_larger_than_the_machine_is_tried_alone(engine):
    engine.submit(runs(64, 1))
    assert going_on(engine) == [64]
    next(iter(engine._busy)).end_run()
    list(engine.events())
    assert going_on(engine) == [1]


def test_each_gpu_has_a_worker_of_its_own(monkeypatch):
    monkeypatch.setattr(local, "Child", Played)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert local.side_by_side(None) == 3
    assert sorted(child.gpu for child in local.Local(3, Orders("results"))._idle) == [0, 1, 2]


def test_little_memory_means_few_workers(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 3 * memory.PROCESS)
    monkeypatch.setattr(local, "cores", lambda: 64)
    assert local.side_by_side(None) == 3
    assert local.side_by_side(5) == 5
    with pytest.raises(UsageError, match="--workers 0"):
        local.side_by_side(0)


def test_what_is_free_is_no_more_than_there_is():
    assert 0 < machine.free_memory() <= machine.memory()
