"""How fast architectures train and decode on this machine, beside others and beside what the machine could do.

Every stack stands in a process of its own, set up as it is to be measured, and takes turns with those that it is compared
with, so that a noisy machine disturbs all of them. A stack is anything that maps (batch, length, dim) to the same shape.

The limit of a step is the time of its contractions at the rate of large matrix products, and of moving once what they read and
write, and what AdamW does, at the rate of a large copy; both rates are measured in the same run. `share` is that time over the
one measured: a stack that did nothing else, and overlapped nothing, would have 1.
"""

import importlib
import importlib.util
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from pandas import DataFrame
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from architectures.backbone import Backbone, LengthError
from architectures.ops.native import timed
from lab import machine, optimizers, plugins
from lab.counter import Counter
from lab.errors import UsageError, is_file, place, reason
from lab.process import started_as_it_comes
from lab.recomputing import recompute

WARM_UP = 2
PATIENCE = 30.0
"""Seconds of measured steps after which a stack takes no more turns. A first step longer than that needs no warm-up."""
DECODED = 50
PIECE = 4096
"""Positions that are streamed at once on the way to the one whose decoding is timed."""
COUNTED = 16384
"""Positions of a sequence up to which operations are counted as they happen."""
USUAL = 1024
"""Positions of a sequence that others are set against."""
ADAM_BYTES = 7 * 4
"""AdamW reads a weight, its gradient and its two moments, and writes all but the gradient."""
PARTS = ("forward", "backward", "optimizer")
Row = dict[str, Any]


@dataclass(frozen=True)
class Stand:
    """What stands in one process.

    stack: `architecture:settings`, or `file.py:callable` for one from outside, called with dim and depth.
    tuned: with the process settings of lab/machine.py, else as torch comes. recompute: activations of an architecture are
    computed again in the backward pass. form: all positions at once, or one after the other by `step`. device: cpu, or a GPU.
    """

    stack: str
    dim: int = 128
    depth: int = 4
    threads: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    tuned: bool = True
    plugin_files: tuple[str, ...] = ()
    recompute: bool = False
    form: Literal["parallel", "recurrent"] = "parallel"
    device: str = "cpu"

    def build(self) -> nn.Module:
        """The stack, drawn under a seed, on its device, in a process set up for it.

        Raises:
            UsageError: there is no such architecture, file or callable.
        """
        if self.tuned:
            machine.tune()
        with suppress(ImportError):
            importlib.import_module("numba")  # or its own memory would be that of the first step
        torch.set_num_threads(self.threads)
        torch.manual_seed(0)
        file, _, name = self.stack.partition(":")
        if not file.endswith(".py"):
            for plugin in self.plugin_files:
                plugins.add_file(plugin)
            name, given = plugins.parse("architectures", self.stack)
            backbone = plugins.load("architectures", name)(self.dim, self.depth, **given).to(self.device)
            if self.recompute:
                recompute(backbone)
            return backbone if self.form == "parallel" else OneByOne(backbone)
        return _callable(file, name)(self.dim, self.depth).to(self.device)

    @property
    def settings(self) -> str:
        """How the process was set up, in words."""
        return "tuned" if self.tuned else "as it comes"

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def clock(self) -> float:
        """Seconds: of one thread the processor's time, from which other work on the machine takes nothing, else the wall's."""
        return time.process_time() if self.threads == 1 and not self.on_gpu else self.wall()

    def wall(self) -> float:
        """Seconds on the clock on the wall, once a GPU has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def bfloat16(self) -> Any:
        """Autocast, where it is asked for."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


class OneByOne(nn.Module):
    """A backbone that reads its positions one after the other."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = self.backbone.init_state(len(x)), []
        for position in x.unbind(1):
            y, state = self.backbone.step(position, state)
            outputs.append(y)
        return torch.stack(outputs, 1)


def measure(
    stand: Stand,
    architectures: Sequence[str] | None,
    lengths: Sequence[int],
    tokens: int,
    rounds: int,
    peers: Sequence[str],
    contexts: Sequence[int],
    longest: float = math.inf,
) -> tuple[DataFrame, dict[str, Any]]:
    """`compared` for each architecture, set up like `stand`, and length, with `decoding` and `relative`, what a token costs over
    what it costs at a length of 1,024 where that is measured too; and what machine that was.

    A training step has `tokens` positions, or one sequence where that is longer. Each architecture decodes after each of
    `contexts` positions, in the row of that length, or a row of its own. What would take longer than `longest` seconds a step, or
    to read a context, or more memory than is free, by what shorter lengths took, is not tried: `failed` and `undecoded` say so.

    Raises:
        UsageError: there is no such architecture, plug-in, file or callable.
    """
    for file in stand.plugin_files:
        plugins.add_file(file)
    names = list(architectures or plugins.names("architectures"))
    for name in names:
        plugins.parse("architectures", name)
    for peer in peers:
        _callable(*peer.rpartition(":")[::2])
    found = rates(stand)
    rows: list[Row] = []
    for name in names:
        mine = replace(stand, stack=name)
        for length in sorted({*lengths, *contexts}):
            print(f"{name}  length {length}", file=sys.stderr)
            cell: list[Row] = [{"stack": name, "settings": mine.settings, "length": length}]
            earlier = [row for row in rows if row["stack"] == name]
            if length in lengths:
                steps = [row | {"seconds": row["batch"] * row["length"] / row["tokens_per_second"], "mb": row["peak_mb"]}
                         for row in earlier if "peak_mb" in row]  # fmt: skip
                if why := too_long(steps, length, longest, tokens):
                    cell[0]["failed"] = why
                else:
                    cell = compared(mine, peers, length, tokens, rounds, found)
            if length in contexts:
                read = [row | {"seconds": row["read_s"], "mb": row["decode_mb"]} for row in earlier if "read_s" in row]
                why = too_long(read, length, longest, 1)
                cell[0] |= {"undecoded": why} if why else decoding(mine, length)
            rows += cell
    usual = {_who(row): row["tokens_per_second"] for row in rows if row["length"] == USUAL and "tokens_per_second" in row}
    for row in rows:
        if "tokens_per_second" in row and _who(row) in usual:
            row["relative"] = usual[_who(row)] / row["tokens_per_second"]
    with started_as_it_comes(not stand.tuned):
        process = _apart(machine.tune)  # as those that were measured were started
    about = machine.environment() | {"process": process} | found | {
        "threads": stand.threads, "precision": stand.precision, "dim": stand.dim, "depth": stand.depth, "tokens": tokens,
        "rounds": rounds, "settings": stand.settings, "recompute": stand.recompute, "on_gpu": stand.on_gpu,
    }  # fmt: skip
    return DataFrame(rows), about


def _who(row: Row) -> tuple[str, str]:
    return row["stack"], row["settings"]


def too_long(measured: Sequence[Mapping[str, Any]], length: int, longest: float, tokens: int) -> str:
    """Why a length is not tried, in words, or nothing. measured: `length`, `seconds` and `mb` of shorter ones."""
    seconds, megabytes = (
        foretold([(each["length"], each[what]) for each in measured], length, tokens) for what in ("seconds", "mb")
    )
    free = machine.free_memory() / 1e6
    if seconds > longest:
        return f"not tried: about {seconds:,.0f} s"
    return f"not tried: about {megabytes / 1000:,.0f} GB" if megabytes > free else ""


def foretold(measured: Sequence[tuple[int, float]], length: int, tokens: int) -> float:
    """What a length takes by what shorter ones took, each as `tokens` positions or one longer sequence; 0 where there are none.

    A position's share grows on by the power of the length that it grew by last, or stays.
    """
    if not measured:
        return 0.0
    shares = [(at, taken / max(at, tokens)) for at, taken in measured[-2:]]
    (before, was), (at, share) = shares[0], shares[-1]
    power = max(0.0, math.log(share / was) / math.log(at / before)) if at > before else 0.0
    return share * (length / at) ** power * max(length, tokens)


def told(about: Mapping[str, Any]) -> str:
    """What was measured, and on what, in two sentences."""
    flops, moved = about["flops_per_second"] / 1e9, about["bytes_per_second"] / 1e9
    where = f"{about['threads']} threads of {about['processor']}{' (processor time)' * (about['threads'] == 1)}"
    return (
        f"Training steps (forward, backward, AdamW) of {about['depth']} layers of width {about['dim']}, {about['tokens']} "
        f"positions a step, {about['precision']}, {'activations computed again, ' * about['recompute']}"
        f"{about['device'] if about['on_gpu'] else where}, median of {about['rounds']}. "
        f"Its limits: {flops:,.0f} GFLOP/s in matrix products, {moved:,.0f} GB/s in copies."
    )


def rates(stand: Stand) -> dict[str, float]:
    """What the machine can do with the threads and the precision of `stand`: operations and bytes a second."""
    return _apart(_measure_rates, stand)


def decoding(stand: Stand, context: int) -> Row:
    """What one sequence takes on one thread, or a GPU: `read_s` seconds to stream `context` positions, 4,096 at once,
    `decode_ms` milliseconds for the next one, median of 50, and `decode_mb` megabytes at the peak of both; nothing where it
    cannot.
    """
    return _apart(_measure_decoding, replace(stand, threads=1), context)


def compared(stand: Stand, peers: Sequence[str], length: int, tokens: int, rounds: int, found: dict[str, float]) -> list[Row]:
    """A training step of `stand`, and of each peer as it comes and tuned: a row each, from the same rounds.

    found: the machine's `rates`. `times` is how many times faster than a peer the stand is, the median over rounds.
    """
    others = [replace(stand, stack=peer, tuned=tuned) for peer in peers for tuned in dict.fromkeys((False, stand.tuned))]
    stands, batch = [stand, *others], max(1, tokens // length)
    rows = []
    for each, result in zip(stands, results := _take_turns(stands, batch, length, rounds), strict=True):
        row: Row = {"stack": each.stack, "settings": each.settings, "length": length, "batch": batch}
        if "failed" in result:
            rows.append(row | {"failed": result["failed"]})
            continue
        seconds = [sum(step.values()) for step in result["steps"]]
        median = statistics.median(seconds)
        row |= {"parameters": result["parameters"], "tokens_per_second": batch * length / median}
        row |= {f"{part}_ms": 1000 * statistics.median(step[part] for step in result["steps"]) for part in PARTS}
        limit = result["flops"] / found["flops_per_second"] + result["bytes"] / found["bytes_per_second"]
        row |= {"peak_mb": result["peak"] / 1e6, "share": limit / median}
        row |= {f"g{unit}_per_second": result[unit] / median / 1e9 for unit in ("flops", "bytes")}
        if each is not stand and "failed" not in results[0]:
            own = [sum(step.values()) for step in results[0]["steps"]]
            row["times"] = statistics.median(theirs / ours for ours, theirs in zip(own, seconds, strict=False))
        rows.append(row)
    return rows


def _take_turns(stands: Sequence[Stand], batch: int, length: int, rounds: int) -> list[dict[str, Any]]:
    """Steps of each stand, in rounds, and what else it tells; or why there are none."""
    context = multiprocessing.get_context("spawn")
    results: list[dict[str, Any]] = [{"steps": []} for _ in stands]
    lines: list[Connection] = []
    for stand in stands:
        ours, its = context.Pipe()
        with started_as_it_comes(not stand.tuned):
            context.Process(target=_stand, args=(its, stand, batch, length), daemon=True).start()
        its.close()
        lines.append(ours)
    for round_ in range(WARM_UP + rounds):
        for line, result in zip(lines, results, strict=True):
            if "failed" not in result and sum(sum(step.values()) for step in result["steps"]) < PATIENCE:
                answer = _ask(line, "step")
                if "failed" in answer:
                    result |= answer
                elif round_ >= WARM_UP or sum(answer.values()) > PATIENCE:
                    result["steps"].append(answer)
    for line, result in zip(lines, results, strict=True):
        result |= {} if "failed" in result else _ask(line, "about")
        line.close()
    return results


def _ask(line: Connection, what: str) -> dict[str, Any]:
    try:
        with suppress(BrokenPipeError):  # it may have told why before it ended
            line.send(what)
        return line.recv()
    except (EOFError, OSError):
        return {"failed": "its process died"}


def _stand(line: Connection, stand: Stand, batch: int, length: int) -> None:
    """The other side of `_take_turns`."""
    try:
        stack = stand.build()
        optimizer = torch.optim.AdamW(stack.parameters(), lr=1e-4, fused=optimizers.fusible(stack.parameters()))
        x = torch.randn(batch, length, stand.dim, device=stand.device)
        peak = _peak_above_now(stand)
        while line.recv() == "step":
            line.send(_step(stack, optimizer, x, stand))
        line.send({"peak": peak(), **_about(stack, batch, length, stand)})
    except EOFError:
        return
    except Exception as error:
        line.send({"failed": f"{type(error).__name__}: {error}".splitlines()[0]})


def _peak_above_now(stand: Stand) -> Callable[[], int]:
    """Begins to measure; the answer is how many bytes the peak lies above what is held now."""
    machine.reset_peak_memory(stand.device)
    held = machine.peak_memory(stand.device)
    return lambda: max(0, machine.peak_memory(stand.device) - held)


def _step(stack: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, stand: Stand) -> dict[str, float]:
    """Seconds of each part of a training step."""
    times = [stand.clock()]
    with stand.bfloat16():
        loss = stack(x).float().square().mean()
    times.append(stand.clock())
    optimizer.zero_grad()
    loss.backward()
    times.append(stand.clock())
    optimizer.step()
    times.append(stand.clock())
    return {part: after - before for part, (before, after) in zip(PARTS, pairwise(times), strict=True)}


def _about(stack: nn.Module, batch: int, length: int, stand: Stand) -> dict[str, int]:
    """Parameters, and what a step cannot do without: the operations and bytes of its contractions.

    Beyond `COUNTED` positions, where counting would take far more memory and time than the step, they are continued from
    shorter sequences. That is exact where each position costs the same or meets all others.
    """
    at = [length] if length <= COUNTED else [COUNTED // 4, COUNTED // 2, COUNTED]
    counts = [_contractions(stack, batch, each, stand) for each in at]
    flops, moved = (round(_continued(at, values, length)) for values in zip(*counts, strict=True))
    parameters = sum(p.numel() for p in stack.parameters())
    return {"parameters": parameters, "flops": flops, "bytes": moved + ADAM_BYTES * parameters}


def _contractions(stack: nn.Module, batch: int, length: int, stand: Stand) -> tuple[int, int]:
    """Operations and bytes, counted of one sequence and, where there are more, of two: what these add is what each one after
    them adds. What is computed a second time could be done without.
    """
    counts = []
    for size in range(1, min(batch, 2) + 1):
        x = torch.zeros(size, length, stand.dim, device=stand.device)
        with Counter(stack.parameters()) as counter, timed(), stand.bfloat16(), set_checkpoint_early_stop(False):
            stack(x).float().sum().backward()
        with Counter(stack.parameters()) as second, timed(), stand.bfloat16(), torch.no_grad():
            if stand.recompute:
                stack(x)
        counts.append((counter.contraction - second.contraction, counter.moved - second.moved))
    (flops, moved), last = counts[0], counts[-1]
    return flops + (batch - 1) * (last[0] - flops), moved + (batch - 1) * (last[1] - moved)


def _continued(at: Sequence[int], values: Sequence[int], where: int) -> float:
    """The parabola through these three values, or the line through the last two where it would bend down; or the one there is."""
    if len(at) == 1:
        return values[0]
    before, slope = ((values[i + 1] - values[i]) / (at[i + 1] - at[i]) for i in range(2))
    bend = max(0.0, (slope - before) / (at[2] - at[0]))
    return values[2] + (where - at[2]) * (slope + bend * (where - at[1]))


def _measure_rates(stand: Stand) -> dict[str, float]:
    machine.tune()
    torch.set_num_threads(stand.threads)
    dtype, side = torch.bfloat16 if stand.precision == "bfloat16" else torch.float32, 8192 if stand.on_gpu else 2048
    a, b = torch.randn(2, side, side, dtype=dtype, device=stand.device)
    source = torch.zeros(1 << 26, device=stand.device)
    target = torch.empty_like(source)

    def fastest(do: Callable[[], Any]) -> float:
        times = [stand.wall()]
        for _ in range(9):
            do()
            times.append(stand.wall())
        return min(after - before for before, after in pairwise(times))

    return {
        "flops_per_second": 2 * side**3 / fastest(lambda: a @ b),
        "bytes_per_second": 2 * source.nbytes / fastest(lambda: target.copy_(source)),
    }


def _measure_decoding(stand: Stand, context: int) -> Row:
    backbone = stand.build().eval()
    assert isinstance(backbone, Backbone)
    peak = _peak_above_now(stand)
    with torch.inference_mode(), stand.bfloat16():
        try:
            pieces = torch.randn(1, min(PIECE, context), stand.dim, device=stand.device)
            backbone.stream(pieces, backbone.init_state(1))  # what happens only once
            state, started = backbone.init_state(1), stand.clock()
            for at in range(0, context, PIECE):
                _, state = backbone.stream(pieces[:, : context - at], state)
            read = stand.clock() - started
            x, seconds = torch.randn(1, stand.dim, device=stand.device), []
            for _ in range(DECODED + 5):
                started = stand.clock()
                _, state = backbone.step(x, state)
                seconds.append(stand.clock() - started)
        except LengthError:
            return {}
    return {"read_s": read, "decode_ms": 1000 * statistics.median(seconds[5:]), "decode_mb": peak() / 1e6}


def _callable(file: str, name: str) -> Callable[..., Any]:
    if not is_file(file):
        raise UsageError(f"--against {file}:{name}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"--against {file}:{name}: {file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--against {file}:{name}: failed to load: {reason(error)} ({place(error)})") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"--against {file}:{name}: {file} has no callable {name!r}; write FILE.py:CALLABLE")
    return found


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a fresh process, so that nothing that ran before matters."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)
