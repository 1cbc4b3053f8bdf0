"""The benchmark of architectures: rows and ratios, peers in the same rounds, limits, what fails, the command."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from torch import nn

from architectures.stack import Stack
from lab import analysis, cli, machine, plugins, primitives, speed
from lab.counter import Counter
from lab.errors import UsageError

STAND = speed.Stand("linear_rnn:mlp=none", dim=16, depth=1)
RATES = {"flops_per_second": 1e9, "bytes_per_second": 1e8}
PEERS = """
import time
import torch

class Slow(torch.nn.Linear):
    def forward(self, x):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return super().forward(x)

def slow(dim, depth):
    return torch.nn.Sequential(*[Slow(dim, dim) for _ in range(depth)])

def settings(dim, depth):
    import os
    import lab.machine
    if lab.machine.tune.cache_info().currsize or "GOMP_SPINCOUNT" in os.environ:
        raise RuntimeError("tuned")
    return slow(dim, depth)

def dies(dim, depth):
    import os
    os._exit(3)

number = 3
"""


@pytest.fixture
def peers(tmp_path):
    path = tmp_path / "peers.py"
    path.write_text(PEERS)
    return path


def test_a_peer_takes_turns_as_it_comes_and_tuned(peers):
    ours, own, tuned = speed.compared(STAND, [f"{peers}:slow"], 8, 16, 2, RATES)
    assert (ours["batch"], ours["length"], ours["settings"]) == (2, 8, "tuned")
    assert ours["parameters"] == sum(p.numel() for p in STAND.build().parameters())
    for row, settings in ((own, "as it comes"), (tuned, "tuned")):
        assert row["settings"] == settings
        assert row["forward_ms"] > 200
        assert row["times"] > 2


def test_times_faster_is_the_median_over_rounds(monkeypatch):
    """Rounds of 1, 2 and 4 seconds against 2, 6 and 4: ratios 2, 3 and 1."""
    seconds = [(1, 2, 4), (2, 6, 4), (2, 6, 4)]
    results = [
        {"steps": [dict.fromkeys(speed.PARTS, each / 3) for each in side], "flops": 1e9, "bytes": 1e8, "peak": 1, "parameters": 1}
        for side in seconds
    ]
    monkeypatch.setattr(speed, "_take_turns", lambda *_: results)
    ours, own, _ = speed.compared(STAND, ["x.py:f"], 8, 16, 3, RATES)
    assert own["times"] == pytest.approx(2)
    assert ours["tokens_per_second"] == pytest.approx(16 / 2)
    assert ours["share"] == pytest.approx(2 / 2)


def test_what_a_token_costs_is_set_against_its_cost_at_1024(monkeypatch):
    """A token takes 1, 2 and 5 ms at 256, 1,024 and 4,096 positions: a half, one, and two and a half times."""
    seconds = {256: 0.001, 1024: 0.002, 4096: 0.005}

    def timed(stand, peers, length, *_):
        return [{"stack": stand.stack, "settings": "tuned", "length": length, "tokens_per_second": 1 / seconds[length]}]

    monkeypatch.setattr(speed, "rates", lambda _: RATES)
    monkeypatch.setattr(speed, "compared", timed)
    frame, _ = speed.measure(STAND, ["lstm", "gru"], [256, 1024, 4096], 16, 1, [], [])
    assert frame["relative"].tolist() == pytest.approx([0.5, 1, 2.5] * 2)
    frame, _ = speed.measure(STAND, ["lstm"], [256], 16, 1, [], [])
    assert "relative" not in frame


def test_a_peer_as_it_comes_has_none_of_our_settings(peers):
    rows = speed.compared(STAND, [f"{peers}:settings"], 8, 16, 1, RATES)
    assert [row.get("failed") for row in rows] == [None, None, "RuntimeError: tuned"]


def test_a_stack_that_dies_is_a_row(peers):
    rows = speed.compared(STAND, [f"{peers}:dies"], 8, 16, 1, RATES)
    assert [row.get("failed") for row in rows] == [None, "its process died", "its process died"]
    assert "its process died" in analysis.benchmark_table(pd.DataFrame(rows))


@pytest.mark.parametrize(("what", "words"), [("nothing.py:f", "there is no file"), ("{}:number", "no callable 'number'")])
def test_a_peer_that_is_none_is_refused_before_anything_runs(peers, what, words):
    with pytest.raises(UsageError, match=words):
        speed.measure(STAND, ["lstm"], [8], 16, 1, [what.format(peers)], [])


def test_the_limit_is_what_products_compute_and_move():
    """Two products of 3 x 5 with 5 x 7 forward, two each backward; operands and results once; AdamW's seven passes."""
    stack = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    about = speed._about(stack, 4, 100, speed.Stand("x.py:f", dim=16))
    tokens, weights = 400, 512
    assert about["flops"] == 5 * 2 * tokens * 256  # the input needs no gradient
    products = 2 * 3 - 1
    read, written = 512, 512  # weights once, and their gradients
    assert about["bytes"] == products * 4 * 2 * tokens * 16 + 4 * (read + written) + 7 * 4 * weights
    assert about["parameters"] == weights


def test_what_grows_less_and_less_is_continued_as_a_line():
    values = [4096, 8192 + 100, 16384 + 150]
    assert speed._continued([4096, 8192, 16384], values, 131072) == pytest.approx(131072, rel=0.01)
    assert speed._continued([1, 2, 4], [1, 4, 16], 8) == 64


@pytest.mark.parametrize("name", ["transformer", "linear_rnn", "mamba:version=2", "gru"])
def test_operations_of_long_sequences_are_continued_from_shorter_ones(name, monkeypatch):
    stand = speed.Stand(name, dim=16, depth=1)
    stack = stand.build()
    counted = speed._about(stack, 1, 1024, stand)
    monkeypatch.setattr(speed, "COUNTED", 512)
    assert speed._about(stack, 1, 1024, stand) == counted


def test_bytes_are_counted_once_for_each_operand():
    with Counter() as counter:
        torch.zeros(3, 5) @ torch.zeros(5, 7) + 1
    assert counter.moved == 4 * (15 + 35 + 21)


def test_decoding_is_timed_or_cannot_be():
    assert speed._measure_decoding(STAND, 10)["decode_ms"] > 0
    assert speed._measure_decoding(speed.Stand("transformer:preset=gpt2,max_length=20", dim=16, depth=1), 10) == {}


def test_a_context_is_streamed_in_pieces(monkeypatch):
    read, stream = [], Stack.stream
    monkeypatch.setattr(Stack, "stream", lambda self, x, state: (read.append(x.shape[1]), stream(self, x, state))[1])
    found = speed._measure_decoding(STAND, 2 * speed.PIECE + 5)
    assert [size for size in read if size > 1] == [speed.PIECE, speed.PIECE, speed.PIECE, 5]  # the first to warm up
    assert found["read_s"] > 0
    assert found["decode_mb"] >= 0


@pytest.mark.parametrize(
    ("measured", "tokens", "expected"),
    [
        ([], 1024, 0),
        ([(256, 1)], 1024, 4),  # 1,024 positions at once, and then one sequence of four times as many
        ([(256, 1), (1024, 1)], 1024, 4),
        ([(256, 1), (1024, 4)], 1024, 64),  # each position of a longer sequence takes as much more
        ([(256, 4), (1024, 1)], 1024, 4),  # it does not become cheaper still
        ([(256, 9), (1024, 1), (2048, 4)], 1024, 16),
    ],
)
def test_longer_lengths_are_foretold_from_the_last_two(measured, tokens, expected):
    assert speed.foretold(measured, 4096, tokens) == pytest.approx(expected, rel=1e-3)


def test_what_would_take_too_long_or_too_much_is_not_tried(monkeypatch):
    """A step of 1,024 and of 4,096 positions takes 1 and 16 seconds; reading them 1 and 4; megabytes are a thousandth."""

    def timed(stand, peers, length, *_):
        row = {"stack": stand.stack, "settings": "tuned", "length": length, "batch": 1, "peak_mb": length / 1000}
        return [row | {"tokens_per_second": 1024**2 / length}]

    monkeypatch.setattr(speed, "rates", lambda _: RATES)
    monkeypatch.setattr(speed, "compared", timed)
    monkeypatch.setattr(
        speed, "decoding", lambda _, length: {"read_s": length / 1024, "decode_ms": 1.0, "decode_mb": length / 1000}
    )
    lengths = [1024, 4096, 16384]
    frame, _ = speed.measure(STAND, ["lstm"], lengths, 1, 1, [], lengths, longest=20)
    assert frame["failed"].isna().tolist() == [True, True, False]
    assert frame["failed"].iloc[2] == "not tried: about 256 s"
    assert "undecoded" not in frame
    assert "not tried: about 256 s" in analysis.benchmark_table(frame)
    monkeypatch.setattr(speed.machine, "free_memory", lambda: 10_000_000)
    frame, _ = speed.measure(STAND, ["lstm"], lengths, 1, 1, [], lengths)
    assert frame["failed"].iloc[2] == frame["undecoded"].iloc[2] == "not tried: about 0 GB"


def test_bfloat16():
    (row,) = speed.compared(speed.Stand("linear_rnn", dim=16, depth=1, precision="bfloat16"), [], 8, 16, 1, RATES)
    assert row["tokens_per_second"] > 0


def test_the_command_writes_a_table_a_figure_and_the_machine(tmp_path):
    command = [sys.executable, "-m", "lab", "bench", "--architectures", "linear_rnn", "lstm:mlp=none", "--lengths", "8", "16"]
    command += ["--tokens", "16", "--dim", "16", "--depth", "1", "--rounds", "1", "--decode", "8", "--out", str(tmp_path / "b")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["stack"], row["length"]) for row in rows] == [
        (name, length) for name in ("linear_rnn", "lstm:mlp=none") for length in (8, 16)
    ]
    assert rows[0]["decode_ms"] > 0
    assert rows[1]["decode_ms"] is None
    assert {path.name for path in (tmp_path / "b").iterdir()} == {
        "machine.json",
        "speed.csv",
        "speed.pdf",
        "speed.png",
        "speed.svg",
        "speed.txt",
    }
    assert "lstm:mlp=none" in (tmp_path / "b" / "speed.txt").read_text()


def test_unknown_architectures_are_refused():
    with pytest.raises(UsageError, match="did you mean lstm"):
        speed.measure(STAND, ["lstn"], [8], 16, 1, [], [])


def test_everything_is_measured_where_nothing_is_named(monkeypatch):
    monkeypatch.setattr(speed, "rates", lambda stand: RATES)
    monkeypatch.setattr(speed, "compared", lambda stand, *_: [{"stack": stand.stack, "length": 8}])
    frame, _ = speed.measure(STAND, None, [8], 16, 1, [], [])
    assert list(frame["stack"]) == plugins.names("architectures")


def test_weights_are_moved_once():
    weight, x = torch.randn(7, 5), torch.randn(3, 5)
    with Counter([weight]) as counter:
        kept = [x @ weight.T for _ in range(4)]
    assert counter.moved == 4 * (4 * 15 + 35 + 4 * 21)
    assert len(kept) == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tpu", "write cpu, cuda"),
        ("cuda:x", "write cpu, cuda"),
        ("cuda:1", "torch finds 1 GPUs"),
        ("cuda:2", "torch finds 1 GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [str(machine.device(good)) for good in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda", "cuda:0"]
    with pytest.raises(UsageError, match=f"--device {name}: {words}"):
        machine.device(name)


def test_scans_are_set_against_a_copy(capsys, tmp_path):
    numbers = ["--lengths", "5", "--tokens", "10", "--states", "3", "--rounds", "2", "--threads", "1"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["bench", "scans", *numbers, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.strip() in (tmp_path / "scans.txt").read_text()
    for kind in ("real ", "complex ", "complex, in planes"):
        for decay in ("constant", "varying"):
            (row,) = [line.split() for line in printed.splitlines() if line.startswith(kind) and f" {decay} " in line][-1:]
            assert row[-7:-4] == ["2", "5", "3"]
            assert min(float(row[-4]), float(row[-2])) > 0


@pytest.mark.parametrize(("varies", "there", "back"), [(False, 2, 3), (True, 3, 5)])
def test_a_scan_moves_what_it_reads_and_writes_once(varies, there, back):
    for dtype, form in primitives.FORMS.values():
        _, _, moved = primitives._ways(form, dtype, varies, (2, 5, 3))
        numbers = 2 * 5 * 3 * (2 if dtype.is_complex else 1)
        assert moved == [4 * numbers * there, 4 * numbers * back]
