"""Checkpoints under what happens to files: cut, flipped, killed while written, a full disk, code inside."""

import hashlib
import warnings

import pytest
import torch

from lab.checkpoint import DurableIO, parts
from lab.errors import UsageError


@pytest.fixture
def path(tmp_path):
    for step in (1, 2):
        DurableIO().save_checkpoint({"step": step}, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_the_newest_is_read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert DurableIO().load_checkpoint(path)["step"] == 2
    assert torch.load(path, weights_only=True)["step"] == 2


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [flip, cut, lambda file: file.write_bytes(b"")])
def test_a_broken_one_is_noticed_and_the_one_before_is_used(path, damage):
    damage(path)
    with pytest.warns(UserWarning, match="checkpoint was cut or changed.*going on from the checkpoint before"):
        assert DurableIO().load_checkpoint(path)["step"] == 1
    DurableIO().save_checkpoint({"step": 2}, path)
    assert DurableIO().load_checkpoint(path)["step"] == 2
    damage(path)
    with pytest.warns(UserWarning, match="the one before|checkpoint before"):
        assert DurableIO().load_checkpoint(path)["step"] == 1, "a broken one must not have pushed out the whole one"


def test_without_a_whole_one_the_way_out_is_named(path):
    for file in parts(path)[:2]:
        flip(file)
    with pytest.raises(UsageError, match=r"checkpoint was cut.*checkpoint\.previous was cut.*--restart"):
        DurableIO().load_checkpoint(path)


def test_a_lost_list_of_sums_is_noticed(path):
    parts(path)[2].unlink()
    with pytest.raises(UsageError, match="--restart"):
        DurableIO().load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run_though_its_sum_is_right(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    newest, _, sums = parts(tmp_path / "checkpoint")
    torch.save({"state_dict": Bomb()}, newest)
    sums.write_text(hashlib.sha256(newest.read_bytes()).hexdigest())
    with pytest.raises(UsageError, match="is not loaded"):
        DurableIO().load_checkpoint(newest)
    assert not (tmp_path / "exploded").exists()
