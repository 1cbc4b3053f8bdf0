"""One unbroken sequence: what the task makes of it, and the probe on planted models whose memory is known."""

import re
import string
from itertools import islice, pairwise

import pytest
import torch
from test_needle import text
from test_probes import Planted, planted
from torch import nn
from torch.nn import functional as F

from lab.errors import UsageError
from lab.model import Model, build
from lab.probes import forks, stream
from tasks import needle
from tasks.needle import ASKS, IS, NAMES, Needle
from tasks.parity import Parity

SETTINGS = [{}, {"filler": "walk", "keys": 4}, {"keys": 26, "digits": 3, "length": 300}, {"digits": 1, "length": 16, "keys": 1}]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("positions", [1200, 4**6, 20_000])
def test_an_endless_sequence_is_one_of_training_but_longer(settings, positions):
    task = Needle(**settings)
    pieces = list(task.endless(positions, 3))
    sequence = text(torch.cat([inputs[0] for inputs, _ in pieces]))
    assert len(sequence) == positions
    needles = re.findall(rf"([A-Z])=(\d{{{task.digits}}})", sequence)
    assert len(needles) == len(dict(needles)) == min(task.keys, len(needle.Needle(keys=26)._places(positions)))
    assert len(re.findall(r"[^a-z]", sequence)) == len(needles) * (task.digits + 2)
    assert re.match(r"[A-Z]=\d", sequence)
    letters = [string.ascii_lowercase.find(letter) for letter in sequence]
    steps = {(b - a) % 26 for a, b in pairwise(letters) if min(a, b) >= 0}
    assert steps == ({1} if task.filler == "repeated" else {1, 2, 3, 4})
    read, moments = 0, []
    for inputs, asked in pieces:
        read += inputs.shape[1]
        if asked is None:
            continue
        moments.append(read)
        found = re.findall(rf"([A-Z])=(\d{{{task.digits}}})", sequence[:read])
        assert len(found) == len(asked.inputs)
        rows = zip(asked.inputs, asked.targets, asked.positions, asked.slices["distance"], strict=True)
        for (name, value), (symbols, targets, positions_, distance) in zip(found, rows, strict=True):
            assert text(symbols) == f"?{name}{value[:-1]}"
            assert text(targets) == value
            assert positions_.tolist() == list(range(1, task.digits + 1))
            assert set(distance.tolist()) == {read - sequence.index(f"{name}=")}
    assert moments == sorted({*(1 << k for k in range(15) if task.digits + 2 <= 1 << k < positions), positions})


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_question_is_written_as_in_training(settings):
    task = Needle(**settings)
    batch = task.batch("test", 0, 1, 0)
    for _, asked in task.endless(4 * task.length, 0):
        for row in asked.inputs if asked else ():
            shape = re.sub(r"[A-Z]", "K", re.sub(r"\d", "0", text(row)))
            assert shape == re.sub(r"[A-Z]", "K", re.sub(r"\d", "0", text(batch.inputs[0, -task.digits - 1 :])))


def test_an_endless_sequence_is_made_as_it_is_read():
    task = Needle(keys=8, filler="walk")
    whole = [inputs for inputs, _ in task.endless(10**5, 1)]
    again = [inputs for inputs, _ in islice(task.endless(10**5, 1), 9)]
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=False))
    assert max(inputs.shape[1] for inputs in whole) == needle.PIECE
    assert not torch.equal(torch.cat(whole, 1), torch.cat([inputs for inputs, _ in task.endless(10**5, 2)], 1))
    assert all(inputs.shape[1] <= needle.PIECE for inputs, _ in islice(task.endless(10**15, 1), 40))


def test_a_needle_that_lies_across_pieces_is_whole(monkeypatch):
    task = Needle(keys=8)
    whole = torch.cat([inputs for inputs, _ in task.endless(2000, 1)], 1)
    monkeypatch.setattr(needle, "PIECE", 5)
    assert torch.equal(whole, torch.cat([inputs for inputs, _ in task.endless(2000, 1)], 1))


class Ledger(Planted):
    """A table of all needles, each forgotten when it began more than `span` positions ago; then it says 0."""

    span = 1 << 40
    digits = 2

    def init_state(self, batch):
        size = self.digits + 1
        return {"table": self.zeros(batch, 26, self.digits), "began": self.zeros(batch, 26).double() - 1e15,
                "recent": self.zeros(batch, size), "read": self.zeros(batch, 1).double()}  # fmt: skip

    def stream(self, x, state):
        size = self.digits + 1
        seen = torch.cat([state["recent"], x.argmax(-1)], 1).long()
        table, began, out = state["table"].clone(), state["began"].clone(), torch.zeros_like(x)
        for row, symbols in enumerate(seen):
            first = int(state["read"][row]) - size
            for place in torch.nonzero(symbols[1 : -self.digits] == IS)[:, 0].tolist():
                name = int(symbols[place]) - NAMES
                table[row, name], began[row, name] = symbols[place + 2 : place + 2 + self.digits].float(), first + place
            for place in torch.nonzero(symbols[size:] == ASKS)[:, 0].tolist():
                name = int(symbols[size + place + 1]) - NAMES
                known = int(state["read"][row]) + place - began[row, name] <= self.span
                values = (table[row, name] * known).long()
                out[row, place + 1 : place + 1 + self.digits] = F.one_hot(values, x.shape[2]).float()
        after = {"table": table, "began": began, "recent": seen[:, -size:].float(), "read": state["read"] + x.shape[1]}
        return out * self.one, after


class Forgetful(Ledger):
    span = 1023


class Scribbling(Ledger):
    """It writes into the state that it is given."""

    def stream(self, x, state):
        state["table"].add_(1)
        return super().stream(x, state)


class Keeping(Planted):
    """All that was read."""

    def init_state(self, batch):
        return (self.zeros(batch, 0, self.dim),)

    def stream(self, x, state):
        return x, (torch.cat([state[0], x], 1),)


def subject(kind, **settings):
    task = Needle(**({"digits": 2, "keys": 26, "length": 256} | settings))
    model = Model(kind(64, 1), task)
    with torch.no_grad():
        nn.init.eye_(model.read.weight)
        nn.init.eye_(model.head.weight)
    return planted(model, task)


def test_a_perfect_memory_recalls_at_every_distance():
    found = stream.measure(subject(Ledger), 1 << 16)
    table = found.sheets["stream"].table
    assert table["accuracy"].tolist() == table["exact"].tolist() == [1.0] * len(table)
    assert table["distance"].tolist() == [1 << k for k in range(2, 17)]
    numbers = found.numbers
    assert (numbers["near"], numbers["start"], numbers["longest"]) == (1, 1, 1 << 16)
    assert (numbers["fresh"], numbers["fresh_alone"]) == (1, 1)
    assert numbers["state"] == 26 * 2 + 26 + 3 + 1
    assert numbers["state_growth"] == 1
    assert 0.5 < numbers["memory_growth"] < 2
    assert numbers["attention_gb"] == pytest.approx(2 * 64 * 4 * 65_536 / 1e9)  # one layer
    assert numbers["attention_flops"] == 4 * 64 * 65_536
    assert found.sheets["stream-cost"].table["positions"].tolist() == [1 << k for k in range(2, 17)]


def test_what_is_forgotten_after_so_many_positions_is_told_by_its_distance():
    found = stream.measure(subject(Forgetful), 1 << 16)
    table = found.sheets["stream"].table.set_index("distance")
    assert (table.loc[:512, "accuracy"] == 1).all()
    assert (table.loc[1024:, "low"] < 0.11).all()
    assert table.loc[1024:, "accuracy"].mean() == pytest.approx(0.1, abs=0.1)
    assert found.numbers["longest"] == 512
    assert found.numbers["near"] == found.numbers["fresh"] == 1
    assert found.numbers["start"] < 1


def test_one_needle_is_asked_for_from_beginning_to_end():
    table = stream.measure(subject(Ledger, keys=1, length=32), 1 << 14).sheets["stream"].table
    assert (table["accuracy"] == 1).all()
    assert table["questions"].tolist() == [1 + 16] * 7 + [1] * 6  # with 16 sequences of 256 positions


def test_a_state_that_grows_is_refused_with_what_it_would_need():
    with pytest.raises(UsageError, match=r"its state grows .* to 256,000,000,000 bytes at 1,000,000,000 positions") as refused:
        stream.measure(subject(Keeping), 10**9)
    assert "\n" not in str(refused.value)
    found = stream.measure(subject(Keeping), 1 << 10)
    assert found.numbers["state_growth"] == 2


@pytest.mark.parametrize("name", ["linear_rnn", "lstm", "mamba", "gla", "retnet", "transformer", "dilated"])
def test_a_fork_answers_as_the_whole_sequence_would(name):
    task = Needle(length=64, digits=2, keys=3, filler="walk")
    torch.manual_seed(0)
    model = build(name, task, dim=16, depth=2, settings={}).eval()
    text, compared = torch.zeros(1, 0, dtype=torch.long), 0
    with torch.no_grad():
        state = model.backbone.init_state(1)
        for inputs, asked in task.endless(700, 0):
            text = torch.cat([text, inputs], 1)
            state = model.backbone.stream(model.read(inputs), state)[1]
            if asked is not None:
                several = forks.fork(model.backbone, state, len(asked.inputs))
                found = model.stream(asked.inputs, several)[0]
                whole = torch.cat([text.expand(len(asked.inputs), -1), asked.inputs], 1)
                wanted = model(whole)[:, text.shape[1] :]
                assert torch.allclose(found, wanted, atol=1e-4)
                compared += len(found)
    assert compared > 10


def test_questions_leave_the_sequence_as_it_was():
    task = Needle(length=256, digits=2, keys=26)
    for kind in (Ledger, Scribbling):
        model = subject(kind).model
        with torch.no_grad():
            *_, (_, asked, _) = forks.read(model, task.endless(5000, 0))
            *_, (_, silent, _) = forks.read(model, ((inputs, None) for inputs, _ in task.endless(5000, 0)))
        assert all(torch.equal(asked[name], silent[name]) for name in asked)


def test_other_tasks_are_refused_and_short_sequences():
    with pytest.raises(UsageError, match="it has no sequence without end; this probe needs a task that has, like needle"):
        stream.measure(planted(Model(Ledger(64, 1), Parity()), Parity()), 1 << 10)
    with pytest.raises(UsageError, match="--positions 1023: must be from 1024 to"):
        stream.measure(subject(Ledger), 1023)


def test_the_first_octave_that_is_not_above_guessing_ends_what_is_recalled():
    answers = [forks.Answer(d, 2 * (d < 30 or d > 400), 2) for d in range(4, 1000)]
    table = forks.by_distance(answers)
    assert forks.longest(table, 0.1) == 16
    assert forks.longest(table.iloc[3:], 0.1) == 0
    assert table["questions"].sum() == table["answers"].sum() / 2 == len(answers)
    assert table.set_index("distance").loc[8, "questions"] == 8


def test_a_long_stream_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(stream, "SAID_SECONDS", -1.0)
    stream.measure(subject(Ledger), 1 << 10)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"512 of 1,024 positions, [\d,]+ a second, 0 min left", lines[-2])
