"""Text from a run of a language task, byte by byte.

The prompt is read as one piece, and every byte after it as the next position after the state that is there: where the state is
of one size, a byte costs the same however much was read before it; attention keeps its keys and values and reads them all.
"""

import codecs
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from architectures.backbone import LengthError
from lab.checkpoint import DurableIO
from lab.errors import UsageError
from lab.model import Model, build, build_task
from lab.recipe import Recipe
from lab.run import Spec, Store
from tasks.task import Task, Tokens


def load(run: str, store: Store) -> Model:
    """The model of a run with the weights of its checkpoint, where there is a GPU on it.

    run: an id, or a folder.

    Raises:
        UsageError: there is no such run, it is of no language task, or its checkpoint is missing or no longer fits.
    """
    folder = Path(run) if "/" in run else store.folder(run)
    try:
        spec = Spec.read(json.loads((folder / "spec.json").read_text("utf-8")))
    except FileNotFoundError:
        raise UsageError(f"generate {run[:80]!r}: no such run in {store.root}; name the id or the folder of one") from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"generate {run[:80]!r}: its spec.json cannot be read: {error}") from None
    task = build_task(spec.names[1], spec.task_settings)
    if not speaks(task):
        raise UsageError(f"generate {run[:80]!r}: {spec.task} is no language task; a run on text can generate")
    if not (folder / "checkpoint").exists():
        raise UsageError(f"generate {run[:80]!r}: it has no checkpoint ({folder / 'checkpoint'}); lab run makes one")
    recipe = Recipe.read(spec.recipe)
    model = build(spec.names[0], task, dim=spec.dim, depth=spec.depth, settings=spec.settings, recipe=recipe)
    weights = DurableIO().load_checkpoint(folder / "checkpoint")["state_dict"]
    try:
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    except RuntimeError:
        raise UsageError(f"generate {run[:80]!r}: {spec.architecture} changed since; its weights do not fit any more") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def speaks(task: Task) -> bool:
    """Whether a task is to name every next byte of a text."""
    return isinstance(task.inputs, Tokens) and task.inputs.vocabulary == 256 and task.metric == "bits_per_byte"


@torch.inference_mode()
def symbols(model: Model, prompt: bytes, *, temperature: float = 1.0, seed: int = 0) -> Iterator[int]:
    """What follows a prompt, without end. At temperature 0 the likeliest symbol, else drawn from softmax(logits / temperature).

    Raises:
        LengthError: the architecture cannot read so far.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    logits, state = model.stream(torch.tensor([list(prompt)], device=device), model.backbone.init_state(1))
    while True:
        last = logits[0, -1].double().cpu()
        if temperature:
            symbol = int(torch.multinomial((last / temperature).softmax(0), 1, generator=generator))
        else:
            symbol = int(last.argmax())
        yield symbol
        logits, state = model.stream(torch.tensor([[symbol]], device=device), state)


def text(found: Iterable[int], count: int) -> Iterator[str]:
    """The first `count` bytes as text, as soon as it is known; what is no UTF-8 is replaced.

    Raises:
        UsageError: the architecture can read no further.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        for byte in islice(found, count):
            yield decoder.decode(bytes([byte]))
    except LengthError as error:
        raise UsageError(f"--tokens {count}: {error}") from None
    yield decoder.decode(b"", final=True)
