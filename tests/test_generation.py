"""Generated text is what the model would have said, and who cannot generate says so in one line."""

import json
from dataclasses import asdict
from itertools import islice

import pytest
import torch
from test_cli import lab

from lab import generation
from lab.checkpoint import DurableIO
from lab.model import build, build_task
from lab.planning import Planner, Shape
from lab.run import Store


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "rhyme.txt"
    file.write_bytes(b"".join(b"%05d the cat, the cat.\n" % (i * 7919 % 100_000) for i in range(400)))
    return f"text:path={file},length=32"


def stored(root, architecture, task):
    """A run with untrained weights in a checkpoint, and its model."""
    spec = Planner(Shape(dim=16, depth=2), 2).plan(architecture, task, 1e12, 0).spec
    torch.manual_seed(0)
    model = build(spec.names[0], build_task(spec.names[1], spec.task_settings), dim=16, depth=2, settings=spec.settings)
    folder = Store(root).folder(spec.id)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps(asdict(spec)))
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    DurableIO().save_checkpoint({"state_dict": weights}, folder / "checkpoint")
    return spec.id, model


@pytest.mark.parametrize(
    "architecture",
    [
        "linear_rnn",
        "lstm",
        "s4",
        "transformer",
        "transformer:preset=gpt2",
        "transformer:attention=window,window=5",
    ],
)
def test_greedy_text_is_the_argmax_of_forward_on_all_that_is_there(tmp_path, text, architecture):
    run, original = stored(tmp_path, architecture, text)
    model = generation.load(run, Store(tmp_path))
    seen = list(b"00017 the ca")
    for symbol in islice(generation.symbols(model, bytes(seen), temperature=0), 12):
        with torch.no_grad():
            logits = original.eval()(torch.tensor([seen]))[0, -1]
        assert float(logits.max() - logits[symbol]) < 1e-4
        seen.append(symbol)


def test_draws_follow_seed_and_temperature(tmp_path, text):
    run, model = stored(tmp_path, "linear_rnn", text)

    def drawn(seed, temperature):
        return list(islice(generation.symbols(model, b"00", seed=seed, temperature=temperature), 20))

    assert drawn(1, 1.0) == drawn(1, 1.0) != drawn(2, 1.0)
    assert drawn(1, 1e-9) == drawn(2, 0.0)
    assert generation.load(f"{tmp_path}/runs/{run}", Store("elsewhere")) is not None


def test_bytes_become_text_as_soon_as_they_are_known():
    assert list(generation.text("aé".encode(), 99)) == ["a", "", "é", ""]
    assert "".join(generation.text(b"\xff\xc3", 99)) == "��"
    assert "".join(generation.text(iter(int, 1), 3)) == "\0\0\0"


def test_the_command_prints_prompt_and_continuation(tmp_path, text, capsys):
    run, _ = stored(tmp_path, "transformer:preset=gpt2,max_length=40", text)
    code, out, err = lab("generate", run, "--prompt", "the cat", "--tokens", "9", "--results", tmp_path, capsys=capsys)
    assert (code, err, out[:7], out[-1]) == (0, "", "the cat", "\n")
    code, _, err = lab("generate", run, "--prompt", "the cat", "--tokens", "99", "--results", tmp_path, capsys=capsys)
    assert code == 2
    assert err.startswith("lab: --tokens 99: ")
    assert "max_length=40" in err


def test_who_cannot_generate_says_so_in_one_line(tmp_path, text, capsys):
    run, _ = stored(tmp_path, "linear_rnn", text)
    other, _ = stored(tmp_path, "linear_rnn", "recall")
    folder = Store(tmp_path).folder(run)

    def said(*given):
        code, out, err = lab("generate", *given, "--results", tmp_path, capsys=capsys)
        assert (code, out, err.count("\n")) == (2, "", 1)
        return err

    assert "no such run" in said("0" * 16, "--prompt", "a")
    assert "recall is no language task" in said(other, "--prompt", "a")
    assert "--prompt: give at least one character" in said(run, "--prompt", "")
    assert "--tokens 0" in said(run, "--prompt", "a", "--tokens", "0")
    assert "--temperature -1.0" in said(run, "--prompt", "a", "--temperature=-1")
    torch_file = folder / "checkpoint"
    content = torch_file.read_bytes()
    torch_file.write_bytes(content[:-5])
    assert "was cut or changed" in said(run, "--prompt", "a")
    torch_file.unlink()
    assert "has no checkpoint" in said(run, "--prompt", "a")
    (folder / "spec.json").write_text("{")
    assert "spec.json cannot be read" in said(run, "--prompt", "a")
