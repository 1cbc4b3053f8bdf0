"""What commands share: types of flags, the set-up of a run, how results are shown."""

import os
import shlex
import sys
import time
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lab.errors import UsageError
from lab.process import UNTUNED, prepare

if TYPE_CHECKING:
    from pandas import DataFrame

    from lab.analysis.figures import Material
    from lab.planning import Planner

STARTED = time.monotonic()
Names = Annotated[list[str], Parameter(consume_multiple=True, negative="")]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Training:
    """How runs train, and where they are kept.

    Attributes
    ----------
    batch
        Sequences a step; as many as 512 tokens hold where none is given.
    accumulate
        Equal parts that the batch of a step is read in, one after the other, to need less memory.
    carry_state
        Train on consecutive pieces of one long text, each row going on with the state it ended with a step before.
    precision
        Arithmetic of the forward pass; states and weights stay float32.
    recipe
        Training recipe for all architectures: gpt1, gpt2, gpt3, gopher, chinchilla, palm, llama, or shared, the lab's own; with
        changes as in gpt3:lr=1e-3,schedule=wsd; or a TOML file. None given: what an architecture asks for, else shared.
    lr
        Peak learning rate, instead of the recipe's.
    plugin
        Python files with an architecture or a task, known by the file's name. Their code is run.
    results
        Folder of the runs.
    tuned
        Use the lab's process settings (memory that is kept and joined, exact fast products, threads that wait
        briefly); --untuned leaves processes as they come.
    yes
        Begin also what needs more than half of the memory there is.
    """

    batch: int | None = None
    accumulate: int = 1
    carry_state: Flag = False
    precision: Literal["float32", "bfloat16"] = "float32"
    recipe: str | None = None
    lr: float | None = None
    plugin: Names | None = None
    results: str = "results"
    tuned: Annotated[bool, Parameter(negative="--untuned")] = True
    yes: Flag = False

    def planner(self) -> "Planner":
        """The planner that these flags describe, for models of the usual shape."""
        if not self.tuned:
            prepare(False)  # before torch is loaded
            os.environ[UNTUNED] = "1"  # workers inherit it
        from lab import presets
        from lab.planning import Planner

        add_plugins(self.plugin)
        if self.lr is not None and not 0 < self.lr <= 1:
            raise UsageError(f"--lr {self.lr}: must be above 0 and at most 1")
        recipe = None if self.recipe is None else presets.read(self.recipe)
        return Planner(
            batch=self.batch, precision=self.precision, recipe=recipe, lr=self.lr, yes=self.yes,
            accumulate=self.accumulate, carry_state=self.carry_state,
        )  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class Setup(Training):
    """What `run` and `compare` share.

    Attributes
    ----------
    size
        Non-embedding parameters (or, with --match flops, FLOPs a token) that every width is solved for, like 100k.
    match
        What is made equal between architectures, to 2 %.
    dim
        A width, instead of --size.
    depth
        Layers.
    """

    size: str = "100k"
    match: Literal["params", "flops"] = "params"
    dim: int | None = None
    depth: int = 2

    def planner(self) -> "Planner":
        """The planner that these flags describe."""
        from lab.budget import parse_amount
        from lab.planning import Shape

        shape = Shape(self.depth, self.dim, self.match, parse_amount(self.size, "--size"))
        return replace(super().planner(), shape=shape)


USUAL = Setup()


def add_plugins(files: list[str] | None) -> None:
    """Make the architectures and tasks of these files known; their code is run."""
    from lab import plugins

    for file in files or []:
        plugins.add_file(file)


def material_of(frame: "DataFrame", results: str, reference: str | None = None, panels: int | None = None) -> "Material":
    """What figures are drawn from, with the curves that they have room for: every point of runs whose curves are drawn, what has
    a score of the others.
    """
    from pandas import DataFrame

    from lab import analysis

    material = analysis.Material(frame, DataFrame(), reference, panels=panels or analysis.PANELS)
    return material.with_curves(analysis.curves(results, material.curved, set(material.shown[0]["id"])))


def present(frame: "DataFrame", results: str, out: str, reference: str | None = None, panels: int | None = None) -> None:
    """Show the table on standard output; figures and the report in `out`."""
    from lab import analysis

    folder, material = Path(out), material_of(frame, results, reference, panels)
    for sweep in material.sweeps:
        print(f"{sweep.task}\n\n{analysis.told(sweep)}\n")
    if len(material.comparison):
        print(analysis.render(material.comparison, material.curves, material.panels))
    path = analysis.write_report(material, folder, command())
    print(f"report:  {path}\nfigures: {folder / 'figures'}")
    print("next:    lab compare with --budget raised, or with --architectures ... my_arch --plugin my_arch.py")


def stored(results: str, tasks: list[str] | None) -> "DataFrame":
    from lab import analysis

    frame = analysis.results(results)
    if tasks:
        frame = frame.loc[frame["task"].isin(tasks)]
    if frame.empty:
        raise UsageError(f"--results {results}: no runs there; lab compare makes some")
    return frame


def command() -> str:
    """The command as it was typed; in a locale that knows no UTF-8, bytes beyond ASCII arrive as surrogates."""
    return shlex.join(["lab", *(os.fsencode(each).decode("utf-8", "replace") for each in sys.argv[1:])])


def interrupted() -> str:
    """What an interrupted command says: the one that resumes it."""
    return "interrupted; go on with: " + command().replace(" --restart", "")


def print_json(value: Any) -> None:
    print(value.to_json(orient="records", indent=1) if hasattr(value, "to_json") else dumps(value, indent=1))
