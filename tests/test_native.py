"""How compiled kernels are called."""

import threading

import pytest
import torch

from architectures.ops import native


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (1000, 1), (10_000, 2)])
def test_a_second_thread_is_for_enough_numbers(length, expected, monkeypatch):
    """It takes longer to begin than a position of a model takes."""
    monkeypatch.undo()
    items, threads = [], set()

    def kernel(first, last, *arrays):
        items.extend(range(first, last))
        threads.add(threading.get_ident())

    torch.set_num_threads(2)
    try:
        native.run(kernel, 4, torch.zeros(2, length, 16), 3.0)
    finally:
        torch.set_num_threads(1)
    assert sorted(items) == [0, 1, 2, 3]
    assert len(threads) == expected
