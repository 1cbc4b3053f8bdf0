"""The model of a stored run."""

import json

from lab.checkpoint import DurableIO, there
from lab.errors import UsageError
from lab.model import Model, build_task, model_of
from lab.run import Spec, Store
from tasks.task import Task


def load(run: str, store: Store) -> tuple[Spec, Task, Model]:
    """The spec, the task, and the model with the weights of its checkpoint, in train().

    run: an id, or a folder.

    Raises:
        UsageError: there is no such run, or its checkpoint is missing or no longer fits.
    """
    folder = store.named(run)
    try:
        spec = Spec.read(json.loads((folder / "spec.json").read_text("utf-8")))
    except FileNotFoundError:
        raise UsageError(f"run {run[:80]!r}: no such run in {store.root}; name the id or the folder of one") from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"run {run[:80]!r}: its spec.json cannot be read: {error}") from None
    if not there(folder / "checkpoint"):
        raise UsageError(f"run {run[:80]!r}: it has no checkpoint ({folder / 'checkpoint'}); lab run makes one")
    task = build_task(spec.names[1], spec.task_settings)
    model = model_of(spec, task)
    weights = DurableIO().load_checkpoint(folder / "checkpoint")["state_dict"]
    try:
        model.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    except RuntimeError:
        raise UsageError(f"run {run[:80]!r}: {spec.architecture} changed since; its weights do not fit any more") from None
    return spec, task, model.train()
