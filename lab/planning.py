"""From names and sizes to specs: every error that a request can have is found here, before anything is written."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from lab import machine, matching, memory, plugins, presets
from lab.budget import shown
from lab.errors import UsageError, within
from lab.model import Model, build, build_task, code_of, count_parameters
from lab.recipe import Recipe
from lab.run import Spec, Store
from lab.training import plan_steps, sequence_cost
from tasks.task import Task

STEP_TOKENS = 512
"""Tokens of an optimizer step where no batch is asked for. Small, as budgets on a laptop buy few steps."""
DEFAULT_SIZE = 100e3
DEEPEST, MOST_SEEDS, LAST_SEED = 1024, 10_000, (1 << 32) - 1
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Shape:
    """How large the models are: a width, or a size that every architecture's width is solved for."""

    depth: int = 2
    dim: int | None = None
    match: matching.Match = "params"
    size: float = DEFAULT_SIZE

    def __post_init__(self) -> None:
        within("--depth", self.depth, 1, DEEPEST)
        within("--dim", self.dim, 1, matching.WIDEST)


@dataclass(frozen=True)
class Planned:
    """A spec, and what it comes to."""

    spec: Spec
    steps: int
    parameters: int
    flops_per_token: float


@dataclass
class Planner:
    """Makes specs; each task is built once, each width solved for once, also by planners made from this one by `replace`.

    recipe: for all architectures; None is what each asks for, or else the lab's. lr: peak learning rate, instead of the recipe's.
    yes: also what may not fit into memory.
    """

    shape: Shape = field(default_factory=Shape)
    batch: int | None = None
    precision: Precision = "float32"
    recipe: Recipe | None = None
    lr: float | None = None
    yes: bool = False
    accumulate: int = 1
    carry_state: bool = False
    _tasks: dict[str, Task] = field(default_factory=dict)
    _widths: dict[tuple[Shape, str, str], tuple[int, dict[str, Any]]] = field(default_factory=dict)

    def plan(self, architecture: str, task: str, budget: float, seed: int) -> Planned:
        """One run.

        Raises:
            UsageError: something in the request is unknown, ill-typed or refused.
            BudgetError: the budget does not pay for one step.
        """
        within("--batch", self.batch, 1, 1 << 20)
        within("--seed", seed, 0, LAST_SEED)
        name, given = plugins.parse("architectures", architecture)
        task_name, task_given = plugins.parse("tasks", task)
        task_text = plugins.canonical("tasks", task_name, task_given)
        if task_text not in self._tasks:
            self._tasks[task_text] = build_task(task_name, task_given)
        made = self._tasks[task_text]
        dim, filled = self.shape.dim, given
        if dim is None:
            asked = (self.shape, plugins.canonical("architectures", name, given), task_text)
            if asked not in self._widths:
                self._widths[asked] = matching.solve(self.shape.match, self.shape.size, name, given, made, self.shape.depth)
            dim, filled = self._widths[asked]
        settings = plugins.resolved("architectures", name, filled)
        recipe = self.recipe_of(name)
        with torch.device("meta"):
            model = build(name, made, dim=dim, depth=self.shape.depth, settings=settings, recipe=recipe)
        recipe = recipe.at(count_parameters(model))
        spec = Spec(
            architecture=plugins.canonical("architectures", name, given),
            settings=settings,
            dim=dim,
            depth=self.shape.depth,
            task=task_text,
            task_settings=plugins.resolved("tasks", task_name, task_given),
            code=code_of(name, task_name, model.backbone),
            data=made.data,
            budget=budget,
            batch=self.batch or max(1, (recipe.tokens or STEP_TOKENS) // made.length),
            seed=seed,
            precision=self.precision,
            recipe=recipe.written(),
            accumulate=self.accumulate,
            carry_state=self.carry_state,
        )
        if self.accumulate < 1 or spec.batch % self.accumulate:
            raise UsageError(f"--accumulate {self.accumulate}: must divide the {spec.batch} sequences of a step (--batch)")
        steps, _ = plan_steps(model, made, spec)
        self._check_memory(model, made, spec)
        cost = sequence_cost(model, made, spec).batch(spec.batch).headline / (spec.batch * made.length)
        return Planned(spec, steps, count_parameters(model), cost)

    def _check_memory(self, model: Model, task: Task, spec: Spec) -> None:
        needed, there = memory.least(model, task, spec), machine.memory()
        if 2 * needed > there and not self.yes:
            raise UsageError(
                f"--batch {spec.batch} at dim={spec.dim}, depth={spec.depth}, length={task.length}: needs "
                f"{needed / 2**30:.1f} GiB of memory at least, more than half of {there / 2**30:.1f} GiB; make one of them "
                "smaller, or try it with --yes"
            )

    def recipe_of(self, architecture: str) -> Recipe:
        """What an architecture trains with; `at` its size where learning rates are published by size.

        Raises:
            UsageError: it asks for a recipe that there is not.
        """
        asked = plugins.load("architectures", architecture).recipe
        recipe = self.recipe or presets.read(asked or presets.SHARED, f"the recipe of {architecture},")
        return recipe if self.lr is None else replace(recipe, lr=self.lr, peaks=())


def plan_all(
    planner: Planner,
    architectures: Sequence[str],
    tasks: Sequence[str],
    budgets: Sequence[float],
    seeds: int,
    tuned: Mapping[str, Planned] = {},
) -> list[Planned]:
    """Every combination, seed by seed, so that half a comparison is already a fair one; costly runs first within a seed.

    tuned: what is to be run instead of the run of seed 0 with an id.
    """
    within("--seeds", seeds, 1, MOST_SEEDS)
    for flag, asked in (("--architectures", architectures), ("--tasks", tasks)):
        if not asked:
            raise UsageError(f"{flag}: name at least one")
    first = [planner.plan(a, t, budget, 0) for budget in budgets for t in tasks for a in architectures]
    first = [tuned.get(planned.spec.id, planned) for planned in first]
    unique = list({planned.spec.id: planned for planned in first}.values())
    unique.sort(key=lambda planned: -planned.spec.budget)
    everything = []
    for seed in range(seeds):
        for planned in unique:
            everything.append(replace(planned, spec=replace(planned.spec, seed=seed)))
    return everything


def missing(planned: Sequence[Planned], store: Store) -> list[Planned]:
    """Those that are not done and not diverged."""
    return [each for each in planned if not store.final(each.spec.id)]


def tell_plan(planned: Sequence[Planned], done: int) -> None:
    """Print, before anything runs, what each width and budget came to."""
    heads = ("task", "architecture", "budget", "dim", "hidden", "parameters", "FLOPs/token", "steps", "batch")
    rows: list[tuple[str, ...]] = [heads]
    for each in planned:
        spec = each.spec
        row = (spec.task, spec.architecture, shown(spec.budget), spec.dim, spec.settings.get("hidden") or "",
               f"{each.parameters:,}", f"{each.flops_per_token:,.0f}", f"{each.steps:,}", spec.batch)  # fmt: skip
        rows.append(tuple(map(str, row)))
    rows = list(dict.fromkeys(rows))  # seeds differ in nothing that is shown
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{len(planned)} runs, {done} of them done before; {len(planned) - done} to do", file=sys.stderr)
    for row in rows:
        names = [text.ljust(width) for text, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row[2:], widths[2:], strict=True)]
        print("  " + "  ".join(names + numbers), file=sys.stderr)
