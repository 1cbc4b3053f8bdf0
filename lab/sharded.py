"""FSDP2 through Lightning: every device keeps a share of each weight, its gradient and its optimizer state.

Zhao et al., "PyTorch FSDP", arXiv:2304.11277; torch's `fully_shard`. The weights are those of one device, drawn on the CPU from
the run's seed and then shared out. A layer's are put together when it is read and let go after it.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from lab import dcp
from lab.checkpoint import newest_whole, place
from lab.errors import UsageError
from lab.model import Model
from lab.recomputing import layers

Value = TypeVar("Value")
_FLAT = states.StateDictOptions(flatten_optimizer_state_dict=True)


def shard(model: Model, mesh: DeviceMesh) -> None:
    """Share out a model's weights, in place; a second time does nothing."""
    for module in dict.fromkeys([*layers(model.backbone), model]):
        if not hasattr(module, "unshard"):
            fully_shard(module, mesh=mesh)
            if hasattr(module, "stream"):
                register_fsdp_forward_method(module, "stream")


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with checkpoints that are durable, checked and read without executing anything.

    world: devices that share the model; all of them, as nothing is parallel in tensors.
    """

    def __init__(self, world: int) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.model is not None
        return states.get_model_state_dict(self.model)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """Its tensors, by the parameter's name: the rest follows from the recipe."""
        return {name: value for name, value in self._flat(optimizer).items() if isinstance(value, Tensor)}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Raises OSError on every rank where one could not write."""
        path = Path(filepath)
        folder = self._agree(lambda: Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")))

        def finish() -> None:
            dcp.write_rest(folder, checkpoint)
            place(folder, path)

        try:
            dcp.write(folder, {"state_dict": checkpoint.pop("state_dict"), "optimizer": checkpoint.pop("optimizer_states")[0]})
            self._agree(finish)
        except (OSError, CheckpointException) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise
            first = next(iter(error.failures.values()))[0]
            raise first if isinstance(first, OSError) else OSError(None, str(first)) from error

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The newest that is whole; the tensors go where they belong. Raises UsageError on every rank if there is none."""
        assert self.model is not None
        folder = self._agree(lambda: newest_whole(checkpoint_path, _folder))
        optimizer = self.optimizers[0]
        tensors = {"state_dict": self.lightning_module_state_dict(), "optimizer": self.optimizer_state(optimizer)}
        rest = dcp.read_into(folder, tensors)
        states.set_model_state_dict(self.model, tensors["state_dict"])
        states.set_optimizer_state_dict(self.model, optimizer, self._flat(optimizer) | tensors["optimizer"], options=_FLAT)
        return rest

    def _flat(self, optimizer: Optimizer) -> dict[str, Any]:
        assert self.model is not None
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return states.get_optimizer_state_dict(self.model, inner, options=_FLAT)

    def _agree(self, act: Callable[[], Value]) -> Value:
        """What rank 0 alone comes to; what it raises is raised everywhere."""
        came: Any = None, None
        if self.is_global_zero:
            try:
                came = act(), None
            except (OSError, UsageError) as error:
                came = None, error
        value, problem = self.broadcast(came)
        if problem:
            raise problem
        return value


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("written without --strategy fsdp2")
    return path
