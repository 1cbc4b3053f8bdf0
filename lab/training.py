"""The one training loop: a LightningModule and a Trainer set-up that serve every architecture and every task.

Batch i is `task.batch("train", i, ...)` at optimizer step i, or with a carried state the i-th pieces of one long text
(lab/carried.py), so what is trained on is a function of the step alone. A step may read it in equal parts, and several devices
share each (lab/distributed.py). Nothing is logged through Lightning in the loop; losses go to curve.jsonl from one callback. A
checkpoint holds the weights, the optimizer, the random states, the seconds spent and the loss since the last row of the curve,
so that a resumed run is the run.
"""

import itertools
import json
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from architectures.backbone import Backbone, Flops, SequenceMap
from lab import carried, machine, optimizers, plugins
from lab.budget import TRAIN_OVER_FORWARD, step_flops, steps_for
from lab.checkpoint import DurableIO, random_states, restore_random_states, seed_generators, there
from lab.distributed import ALONE, Ranks, prepare, whole
from lab.errors import UsageError, place
from lab.evaluation import evaluate_all
from lab.gate import Leak, gate
from lab.interim import Interim
from lab.model import Model, build_task, code_of, count_parameters, model_of, state_size
from lab.recipe import Recipe
from lab.run import Run, Spec, Store, write_durably
from lab.throughput import throughput
from tasks.task import Batch, Task

CURVE_ROWS = 200
CHECKPOINT_SECONDS = 10.0
Progress = Callable[[int, int, float], None]
"""Called now and then with the steps done, the steps planned and the last loss."""

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


class Diverged(Exception):
    """The loss or its gradient is no longer finite; says which, and the last loss that was."""


class Interrupted(Exception):
    """Asked to stop; the checkpoint is written."""


class Batches:
    """Batches of the training split in order of their index, from `start` on; with `carry_state`, of pieces of its one text."""

    def __init__(self, task: Task, size: int, seed: int, *, carry_state: bool = False) -> None:
        self.task, self.size, self.seed, self.carry_state, self.start = task, size, seed, carry_state, 0

    def __iter__(self) -> Iterator[Batch]:
        for index in itertools.count(self.start):
            if self.carry_state:
                yield carried.piece(self.task, "train", index, self.size, self.seed)
            else:
                yield self.task.batch("train", index, self.size, self.seed)


@dataclass(frozen=True)
class Part:
    """Rows that are read together: of the `number`-th part of an optimizer step's batch, with their share of its answers."""

    batch: Batch
    number: int
    share: float


class Parts:
    """Every batch in `count` equal parts; of each what this rank reads of it."""

    def __init__(self, batches: Batches, count: int, ranks: Ranks = ALONE) -> None:
        self.batches, self.count, self.ranks = batches, count, ranks

    def __iter__(self) -> Iterator[Part]:
        pieces = self.count * self.ranks.world
        for batch in self.batches:
            asked = batch.asked
            for number, part in enumerate(batch.parts(pieces)[self.ranks.rank :: self.ranks.world]):
                yield Part(part, number, part.asked / asked if asked else 1 / pieces)


def sequence_maps(model: Model) -> list[SequenceMap]:
    """Whatever in a model may have a loss of its own."""
    return [module for module in model.modules() if isinstance(module, SequenceMap)]


def with_auxiliary(loss: Tensor, maps: list[SequenceMap]) -> Tensor:
    """The task's loss and those that maps left in the last forward pass."""
    return sum((each.auxiliary for each in maps if each.auxiliary is not None), loss)


class Learner(L.LightningModule):
    """Minimise the task's loss with the recipe's optimizer; the learning rate is a function of the step.

    parts: that a batch is read in. Their losses weigh as much as they have answers, so that the gradient is the batch's.
    row_axes: of a state's tensors, where each row begins with the state it ended with a step before; the checkpoint keeps that.
    ranks: that share the parts.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        recipe: Recipe,
        steps: int,
        *,
        parts: int = 1,
        row_axes: Sequence[int | None] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.model, self.task, self.recipe, self.steps, self.ranks = model, task, recipe, steps, ranks
        self.maps = sequence_maps(model)
        self.row_axes, self.states = row_axes, [()] * parts
        self.loss, self.summed = math.nan, 0.0

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # only the sharded strategy brings one
            from lab import sharded

            sharded.shard(self.model, self.device_mesh)

    def training_step(self, part: Part, index: int) -> STEP_OUTPUT:
        predictions, parts = self._predictions(part), len(self.states)
        loss = self.task.loss(predictions, part.batch.targets) if part.share else 0 * predictions.sum()
        value = self.ranks.sum(part.share * loss.item())
        if not math.isfinite(value):
            raise Diverged(f"loss was {value}", self.loss)
        self.summed = (self.summed if part.number else 0.0) + value
        if part.number + 1 == parts:
            self.loss = self.summed
        return with_auxiliary(loss * (part.share * parts * self.ranks.world), self.maps)  # parts and ranks are averaged over

    def _predictions(self, part: Part) -> Tensor:
        batch = part.batch
        if self.row_axes is None:
            return self.model(batch.inputs, batch.positions, batch.lengths)
        state = self.model.backbone.init_state(len(batch.inputs)) if batch.begins else self.states[part.number]
        predictions, state = self.model.stream(batch.inputs, state)
        self.states[part.number] = carried.cut(state)
        return predictions

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        everywhere, axes = self.ranks.gathered(carried.cut(self.states, torch.device("cpu"))), self.row_axes or ()
        checkpoint["states"] = [carried.joined(of_part, axes) for of_part in zip(*everywhere, strict=True)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        found, axes = checkpoint.get("states", self.states), self.row_axes or ()
        self.states = [carried.piece_of(state, axes, self.ranks.rank, self.ranks.world) for state in found]

    def on_train_start(self) -> None:
        self.states = carried.cut(self.states, self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        made = optimizers.optimizer(self.recipe, self.model)
        self.peaks = [group["lr"] for group in made.param_groups]
        return made

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        rate = self.recipe.rate(self.trainer.global_step, self.steps)
        for group, peak in zip(optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip or math.inf))
        if not norm.isfinite():
            raise Diverged(f"the gradient's norm was {norm:g}", self.loss)

    def transfer_batch_to_device(self, batch: Part, device: torch.device, dataloader_idx: int) -> Part:
        if device.type == "cpu":
            return batch
        return replace(batch, batch=batch.batch.to(device))


class Recorder(L.Callback):
    """Writes the curve and the checkpoints, reports progress, stops when asked. Of several ranks the first writes."""

    def __init__(
        self,
        folder: Path,
        batches: Batches,
        per_step: dict[str, int],
        every: int,
        interim: Interim,
        progress: Progress,
        stop: Callable[[], bool],
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder, self.batches, self.per_step, self.progress, self.stop = folder, batches, per_step, progress, stop
        self.every, self.interim, self.ranks = every, interim, ranks
        self.next, self.seconds, self.summed, self.counted = 0, 0.0, 0.0, 0
        self.random: dict[str, Any] | None = None
        self.on_sigterm = signal.getsignal(signal.SIGTERM)

    def state_dict(self) -> dict[str, Any]:
        state = {"seconds": self.seconds, "summed": self.summed, "counted": self.counted}
        return state | {"random": random_states(), "next": self.next}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.summed = state_dict["seconds"], state_dict["summed"]
        self.counted, self.random = state_dict["counted"], state_dict["random"]
        self.next = self.batches.start = state_dict["next"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        path = self.folder / "curve.jsonl"
        if self.ranks.first:
            rows = path.read_text("utf-8").splitlines() if path.exists() and self.next else []
            write_durably(path, "".join(f"{row}\n" for row in rows if _step_of(row) <= self.next).encode())
        if self.random is not None:
            restore_random_states(self.random)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)  # Lightning's leaves without a checkpoint, or waits for other ranks
        self.clock = self.saved = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.ranks.world > 1:  # each drops something else, at a step always the same
            seed_generators(self.ranks.seed(self.batches.seed, self.next, batch.number))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Learner)
        if trainer.global_step == self.next:  # there are more parts of this step's batch
            return
        now = time.monotonic()
        self.seconds += now - self.clock
        self.clock = now
        self.next += 1
        self.summed, self.counted = self.summed + pl_module.loss, self.counted + 1
        if self.next % self.every == 0 or self.next == trainer.max_steps:
            self._row(trainer.max_steps, pl_module.model)
        asked = self.ranks.largest(2 if self.stop() else 1 if now - self.saved > CHECKPOINT_SECONDS else 0)
        if asked:
            save(trainer, self.folder)
            self.clock = self.saved = time.monotonic()
            if asked == 2:
                raise Interrupted

    def _row(self, steps: int, model: Model) -> None:
        loss = self.summed / self.counted
        amounts = {name: amount * self.next for name, amount in self.per_step.items()}
        row = {"step": self.next, **amounts, "seconds": round(self.seconds, 4), "loss": loss}
        if self.next in self.interim.steps:
            row["score"] = self.interim.score(model)
            self.clock = time.monotonic()
        self.summed, self.counted = 0.0, 0
        if self.ranks.first:
            with open(self.folder / "curve.jsonl", "a", encoding="utf-8") as curve:
                curve.write(json.dumps(row) + "\n")
            self.progress(self.next, steps, loss)


def save(trainer: L.Trainer, folder: Path) -> None:
    """Write the checkpoint, after the rows that it counts on; a disk that is full keeps the one before, and training goes on."""
    try:
        if trainer.is_global_zero:
            with open(folder / "curve.jsonl", "a") as curve:
                os.fsync(curve.fileno())
        trainer.save_checkpoint(folder / "checkpoint")
    except OSError as error:
        trainer.strategy.barrier()  # others wait there for what failed here
        warnings.warn(f"no checkpoint in {folder} ({error.strerror}); training goes on and tries again", stacklevel=2)


def plan_steps(model: Model, task: Task, spec: Spec) -> tuple[int, int]:
    """Optimizer steps that the budget pays for, and the training FLOPs of one, matrix products of its update included.

    Raises:
        BudgetError: it pays for none.
    """
    per_step = step_flops(sequence_cost(model, task, spec), spec.batch)
    per_step += optimizers.update_flops(Recipe.read(spec.recipe), model)
    return steps_for(spec.budget, per_step), per_step


def flops_by_kind(model: Model, task: Task, spec: Spec, steps: int) -> dict[str, int]:
    """Training FLOPs of `steps` steps by kind, `optimizer` among them where its matrix products are part of the budget."""
    cost = sequence_cost(model, task, spec).batch(spec.batch)
    kinds = {kind: TRAIN_OVER_FORWARD * value * steps for kind, value in cost.kinds.items()}
    update = optimizers.update_flops(Recipe.read(spec.recipe), model)
    return kinds | ({"optimizer": update * steps} if update else {})


def sequence_cost(model: Model, task: Task, spec: Spec) -> Flops:
    """Forward, one sequence of a step's batch.

    Raises:
        UsageError: its state is to be carried and cannot be.
    """
    if not spec.carry_state:
        return model.flops(task.length, task.answers)
    try:
        pieces = carried.stretch(task, "train", spec.batch)
        carried.stretch(task, "test", carried.LANES)
    except (NotImplementedError, ValueError) as error:
        raise UsageError(f"--carry-state with --task {spec.task}: {error}") from error
    try:
        past = carried.settled(_on_meta(spec, task), task.length, pieces) * task.length
    except ValueError as error:
        raise UsageError(f"--carry-state with --architecture {spec.architecture}: {error}") from error
    return carried.piece_flops(model, task.length, past)


def train(
    spec: Spec,
    store: Store,
    *,
    progress: Progress = lambda *_: None,
    stop: Callable[[], bool] = bool,
    leak_gate: bool = True,
    ranks: Ranks = ALONE,
) -> Run:
    """Carry out a run, from its checkpoint if it has one, and publish it.

    ranks: that carry it out together, each by calling this; the first publishes.

    A run that diverges is published with that status; one whose backbone sees the future, unless `leak_gate` is off, as
    failed. `stop` is asked after every step; once it says yes the checkpoint is written and a Run with status `interrupted`
    returned, which is not published.
    """
    process = machine.tune()
    named = plugins.outside(("architectures", spec.names[0]), ("tasks", spec.names[1]))
    environment = machine.environment() | {"process": process, "execution": ranks.execution.written()}
    environment |= {"plugins": named} if named else {}
    task = build_task(spec.names[1], spec.task_settings)
    if task.data != spec.data:
        raise ValueError(f"the data behind {spec.task} changed: expected hash {spec.data[:12]}, found {task.data[:12]}")
    for kind, code in code_of(*spec.names, _on_meta(spec, task)).items():
        if code != spec.code[kind]:
            raise ValueError(f"the code in {kind} changed after the run was planned; the same command plans it anew")

    recipe = Recipe.read(spec.recipe)

    def make() -> Model:
        return model_of(spec, task)

    looked = "off"
    if leak_gate:
        try:
            looked = "passed" if gate(make, task, spec.seed) else "not causal"
        except Leak as leak:
            reason = f"{spec.architecture} sees the future: {leak}; lab check {spec.architecture} looks closer"
            run = Run(id=spec.id, spec=spec, status="failed", reason=reason, leak_gate="refused",
                      environment=environment)  # fmt: skip
            if ranks.first:
                store.publish(run)
            return run
    ranks.join()
    seed_generators(spec.seed)
    model = make()
    prepare(model, ranks.execution)
    steps, per_step = plan_steps(model, task, spec)
    forward = sequence_cost(model, task, spec)
    folder = store.folder(spec.id)
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        write_durably(folder / "spec.json", json.dumps(asdict(spec), indent=1).encode())

    batches = Batches(task, spec.batch, spec.seed, carry_state=spec.carry_state)
    every = max(1, steps // CURVE_ROWS)
    interim = Interim(model, task, precision=spec.precision, steps=steps, every=every, per_step=per_step)
    amounts = {"tokens": spec.batch * task.length, "flops": per_step}
    recorder = Recorder(folder, batches, amounts, every, interim, progress, stop, ranks)
    axes = carried.row_axes(_on_meta(spec, task), task.length) if spec.carry_state else None
    learner = Learner(model, task, recipe, steps, parts=spec.accumulate, row_axes=axes, ranks=ranks)
    machine.reset_peak_memory()
    reason = _fit(learner, recorder, Parts(batches, spec.accumulate, ranks), folder, steps, spec.precision)

    status = "interrupted" if reason == "interrupted" else "diverged" if reason else "done"
    if not ranks.execution.sharded:
        ranks.leave()
        if not ranks.first:
            return Run(id=spec.id, spec=spec, status=status, reason=reason)
    scores, refused, evaluation_flops = evaluate_all(model, task, precision=spec.precision) if status == "done" else ({}, {}, 0)
    if status == "done" and spec.carry_state:
        found, pieces = carried.evaluate(model, task, precision=spec.precision)
        scores["test"] |= found
        evaluation_flops += pieces * forward.batch(carried.LANES).headline
    peak = machine.peak_memory()
    cost = forward.batch(spec.batch)
    taken = recorder.next
    run = Run(
        id=spec.id,
        spec=spec,
        status=status,
        scores=scores,
        metric=task.metric,
        higher_is_better=bool(task.new_metric().higher_is_better),
        baselines=task.baselines(),
        references=plugins.references(spec.names[1], task.references, spec.task_settings),
        flops=taken * per_step,
        flops_by_kind=flops_by_kind(model, task, spec, taken),
        minimum_flops=TRAIN_OVER_FORWARD * cost.least.headline * taken,
        optimizer_flops=taken * optimizers.flops_apart(recipe, model),
        evaluation_flops=evaluation_flops + interim.spent(taken),
        flops_per_token=cost.headline / (spec.batch * task.length),
        parameters=count_parameters(model),
        parameters_by_part=model.parameters_by_part,
        state_size=state_size(_on_meta(spec, task), task.length),
        seconds=recorder.seconds,
        tokens=taken * spec.batch * task.length,
        steps=taken,
        planned_steps=steps,
        peak_memory=peak,
        throughput=throughput(model.backbone, spec.precision) if status == "done" and not ranks.execution.sharded else {},
        reason=reason,
        refused=refused,
        leak_gate=looked,
        environment=environment,
    )
    ranks.leave()
    if status != "interrupted" and ranks.first:
        store.publish(run)
    return run


def fail(spec: Spec, store: Store, error: Exception) -> Run:
    """Publish a run that ended with an error: what it was, and where in the code of the plug-in or of the lab it came up."""
    homes = [plugins.told(kind, name) for kind, name in zip(plugins.CONTRACTS, spec.names, strict=True)]
    strangers = [home for home, name in zip(homes, spec.names, strict=True) if home != name]
    what = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
    where = "; ".join([place(error), *(f"plug-in {home}" for home in strangers)])
    run = Run(id=spec.id, spec=spec, status="failed", reason=f"{what} ({where})", environment=machine.environment())
    store.publish(run)
    return run


def _fit(learner: Learner, recorder: Recorder, parts: Parts, folder: Path, steps: int, precision: str) -> str:
    """Train to the end; the reason if the end was not reached."""
    ranks = parts.ranks
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=parts.count,
        accelerator="auto",
        devices=ranks.execution.devices,
        num_nodes=ranks.execution.nodes,
        strategy=ranks.strategy(),
        precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        callbacks=[recorder],
        plugins=[DurableIO(), ranks.environment],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    checkpoint = folder / "checkpoint" if (found := there(folder / "checkpoint")) else None
    if found and found.is_dir() != ranks.execution.sharded:
        how = "one file, written without" if ranks.execution.sharded else "in shards, written with"
        raise UsageError(f"--strategy: the checkpoint of run {folder.name} is {how} fsdp2; go on as it began, or --restart")
    learner.train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", "Dynamo detected")  # caches, whose values follow from their arguments
        try:
            trainer.fit(learner, parts, ckpt_path=checkpoint, weights_only=True)
        except Diverged as diverged:
            what, last = diverged.args
            return _diverged(what, recorder.next + 1, last)
        except (Interrupted, SIGTERMException):  # the latter of a signal before training began
            return "interrupted"
    save(trainer, folder)
    if not all(whole(parameter.isfinite().all()) for parameter in learner.parameters()):
        return _diverged("a weight was not finite", recorder.next, learner.loss)
    if not ranks.execution.sharded:
        learner.to(trainer.strategy.root_device)  # Lightning leaves the model on the CPU; it is to be scored where it was trained
    return ""


def _diverged(what: str, step: int, last: float) -> str:
    finite = "" if math.isnan(last) else f"; the last finite loss was {last:.4g}"
    return f"{what} at step {step}{finite}"


def _on_meta(spec: Spec, task: Task) -> Backbone:
    with torch.device("meta"):
        return model_of(spec, task).backbone


def _step_of(row: str) -> float:
    """The step of a row of the curve; a row that was cut off counts as later than all."""
    try:
        return float(json.loads(row)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return math.inf
