"""`lab doctor`: each thing is broken for real, and named with its remedy; it changes nothing."""

import json
import os
import shutil
import time
from collections import namedtuple

import numpy as np
import pytest
from test_cli import lab
from test_store import SPEC

from lab import doctor
from lab.checkpoint import DurableIO
from lab.engines import ray, slurm
from lab.run import Run, Store
from tasks.sources.shards import Shards


def _rows(first, count):
    return np.arange(first, first + count, dtype=np.uint8)[:, None]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with two checkpoints in a store, and a cache with a shard."""
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    Shards("rows", {}, 10, (1,), _rows).ensure(0, 10)
    Store(tmp_path / "r").publish(Run(id=SPEC.id, spec=SPEC, status="done"))
    path = Store(tmp_path / "r").folder(SPEC.id)
    for step in (1, 2):
        DurableIO().save_checkpoint({"step": step}, path / "checkpoint")
    return path


def told(folder, capsys):
    before = sorted(path for path in folder.parents[2].rglob("*"))
    code, out, err = lab("doctor", "--results", folder.parents[1], capsys=capsys)
    assert err == ""
    assert sorted(path for path in folder.parents[2].rglob("*")) == before
    lines = out.splitlines(keepends=True)
    assert [line.partition(":")[0] for line in lines[:3]] == ["--engine local", "--engine ray", "--engine slurm"]
    return code, "".join(lines[3:])


def test_nothing_is_broken(folder, capsys):
    assert told(folder, capsys) == (0, "nothing is broken\n")


def test_an_engine_that_cannot_be_used_here_says_why(monkeypatch):
    for module in (ray, slurm):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert doctor.engines() == [
        "--engine local: can be used here",
        "--engine ray: Ray is not installed; pip install 'sequence-lab[ray]'",
        "--engine slurm: submitit is not installed; pip install 'sequence-lab[slurm]'",
    ]


def change_schema(path):
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"schema": 99}))


BREAKS = [
    ("run.json", lambda path: path.write_text(path.read_text()[:-40]), "cannot be read"),
    ("run.json", lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
    ("run.json", lambda path: path.write_text("[]"), "holds no object"),
    ("run.json", lambda path: path.write_text("{\"a\": 1}"), "has no schema"),
    ("run.json", change_schema, "made by a newer lab: schema 99, this one reads 1; update the lab"),
    ("spec.json", lambda path: path.write_text("{"), "cannot be read"),
    ("spec.json", lambda path: path.write_text(path.read_text().replace('"seed": 0', '"seed": 1')), "not the folder's name"),
    (".run.json.x3", lambda path: path.write_text("{"), "left by a write that was cut off; remove it"),
    ("checkpoint", lambda path: path.write_bytes(path.read_bytes()[:-5]), "cut or changed"),
    ("checkpoint.previous", lambda path: path.write_bytes(b"?" + path.read_bytes()[1:]), "cut or changed"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "harm", "words"), BREAKS, ids=[f"{name}: {words[:20]}" for name, _, words in BREAKS])
def test_a_broken_file_of_a_run_is_named_with_its_remedy(folder, capsys, name, harm, words):
    harm(folder / name)
    code, out = told(folder, capsys)
    assert (code, out.count("\n")) == (1, 1), out
    assert out.startswith(f"{folder / name}: ")
    assert words in out


def test_a_run_in_hand_is_left_alone(folder, capsys):
    with Store(folder.parents[1]).claim(folder.name):
        (folder / ".run.json.x3").write_text("{")
        assert told(folder, capsys) == (0, "nothing is broken\n")
    assert told(folder, capsys)[0] == 1


def test_a_damaged_shard_and_a_part_of_one_are_named(folder, capsys):
    (shard,) = folder.parents[2].glob("cache/*/*.rows")
    content = bytearray(shard.read_bytes())
    content[3] ^= 1
    shard.write_bytes(content)
    part = shard.with_name("x.part")
    part.write_bytes(b"")
    code, out = told(folder, capsys)
    assert (code, out.count("\n")) == (1, 1)
    assert f"{shard}: its bytes are not those that were written; remove it" in out
    os.utime(part, (0, time.time() - 7200))
    assert f"{part}: left by a writer" in told(folder, capsys)[1]


def test_a_cache_that_is_a_file_is_named(folder, capsys, monkeypatch):
    (folder.parents[2] / "file").write_text("")
    monkeypatch.setenv("LAB_CACHE", str(folder.parents[2] / "file" / "below"))
    code, out = told(folder, capsys)
    assert (code, out.count("\n")) == (1, 1)
    assert "LAB_CACHE" in out
    assert "cannot be written" in out


def test_a_full_disk_is_named(folder, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 5 << 20))
    assert "5 MiB free" in told(folder, capsys)[1]


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (["torch>=99", "numpy"], "is outside of >=99; pip install 'torch>=99'"),
        (["numba-of-another-name>=1"], "numba-of-another-name is not installed"),
        (["missing; extra == 'dev'", "torch"], "nothing is broken"),
    ],
)
def test_versions_are_held_against_what_the_package_asks_for(folder, capsys, monkeypatch, needs, words):
    monkeypatch.setattr(doctor, "requires", lambda _: needs)
    assert words in told(folder, capsys)[1]
