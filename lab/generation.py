"""Text from a run of a language task, byte by byte.

The prompt is read as one piece, and every byte after it as the next position after the state that is there: where the state is
of one size, a byte costs the same however much was read before it; attention keeps its keys and values and reads them all.
"""

import codecs
from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from architectures.backbone import LengthError
from lab import stored
from lab.errors import UsageError
from lab.model import Model
from lab.run import Store
from tasks.task import Task, Tokens


def load(run: str, store: Store) -> Model:
    """The model of a run of a language task, where there is a GPU on it.

    run: an id, or a folder.

    Raises:
        UsageError: it is of no language task, or as `lab.stored.load`.
    """
    spec, task, model = stored.load(run, store)
    if not speaks(task):
        raise UsageError(f"run {run[:80]!r}: {spec.task} is no language task; a run on text can generate")
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
