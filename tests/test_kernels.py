"""Compilations of kernels that are kept on disk, under processes that are killed and that race."""

import os
import shutil
import signal
import sys
from importlib import util
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile
from soak.children import fork

from architectures.ops.kernels import compiler
from architectures.ops.kernels.tiles import product
from architectures.ops.kernels.vectors import in_strips, vectors

SOURCE = """
from architectures.ops.kernels.compiler import kernel

@kernel
def scale(first, last, x):
    for i in range(first, last):
        x[i] = FACTOR * x[i]
"""


def multiplied(file, dtype):
    """Of a process that first sees the kernel: [1, 2, 3] times its factor."""
    spec = util.spec_from_file_location("scaling", file)
    module = util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    x = np.array([1, 2, 3], dtype)
    module.scale(0, 3, x)
    return list(x)


def killed(at, work):
    """Do some work in a process that is killed when it comes to a method of numba's cache."""
    pid = fork()
    if not pid:
        setattr(IndexDataCacheFile, at, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        work()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "scaling.py"
    file.write_text(SOURCE.replace("FACTOR", "2"))
    return file


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kill_between_two_writes_leaves_no_older_code_and_none_for_another_dtype(file, dtype):
    assert multiplied(file, np.float32) == [2, 4, 6]
    file.write_text(SOURCE.replace("FACTOR", "3"))  # the index begins anew, and what it named is still there
    killed("_save_data", lambda: multiplied(file, dtype))
    assert multiplied(file, dtype) == [3, 6, 9]


def test_two_that_compile_at_once_for_different_dtypes_leave_no_code_for_another(file, monkeypatch):
    save, begun = IndexDataCacheFile._save_data, []

    def late(self, *given):
        """Another process, which found the index empty as this one did, writes both files between the two writes of this one."""
        if not begun:
            begun.append(self)
            with monkeypatch.context() as other:
                other.setattr(IndexDataCacheFile, "_load_index", lambda self: {})
                multiplied(file, np.float64)
        save(self, *given)

    monkeypatch.setattr(IndexDataCacheFile, "_save_data", late)
    multiplied(file, np.float32)
    for dtype in (np.float64, np.float32, np.float64):
        assert multiplied(file, dtype) == [2, 4, 6]


@pytest.mark.parametrize("changed", compiler.SHARED)
def test_a_change_of_what_kernels_call_compiles_them_again(file, changed, monkeypatch):
    multiplied(file, np.float32)
    for name in compiler.SHARED:
        shutil.copy2(Path(compiler.__file__).with_name(name), file.with_name(name))
    monkeypatch.setattr(compiler, "__file__", str(file.with_name("compiler.py")))
    kept = list(file.parent.glob("__pycache__/scaling.scale*.nbc"))
    before = [each.stat().st_mtime_ns for each in kept]
    assert kept
    multiplied(file, np.float32)
    assert [each.stat().st_mtime_ns for each in kept] == before, "what is kept is used"
    os.utime(file.with_name(changed), (1e9, 1e9))
    multiplied(file, np.float32)
    assert [each.stat().st_mtime_ns for each in kept] != before


def test_what_kernels_call_is_part_of_them():
    """What one function makes has a number of the process in its symbol: kernels kept by two processes would mix them up."""
    add, add_turned = product(), product(turned=True)
    strips = in_strips(lambda registers: strip_of(*vectors(registers)), 4)

    @numba.njit
    def uses_all(out, left, right):
        add(out, left, right)
        add_turned(out, left, right)
        strips(0, len(left), 0, left[0], out[0])

    arrays = [np.ones((24, 24), np.float32) for _ in range(3)]
    uses_all(*arrays)
    assert arrays[0][1].tolist() == [49] * 24
    assert arrays[0][0].tolist() == [2] * 24
    (made,) = uses_all.inspect_llvm().values()
    assert [line for line in made.splitlines() if line.startswith("define") and "uses_all" in line]
    assert not [line for line in made.splitlines() if line.startswith("define") and "locals" in line and "uses_all" not in line]


def strip_of(load, store):
    @compiler.exact
    def strip(low, n, given, out):
        store(out, low, load(given, low) + load(given, low))

    return strip
