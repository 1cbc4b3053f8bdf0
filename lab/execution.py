"""How a run is carried out: on how many devices, and what is done to fit their memory or to save time.

It changes numbers by no more than rounding (and which positions dropout drops), so it is no part of a spec: a run has one id
however it is carried out, and its record says how that was.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lab.errors import UsageError
from lab.run import Spec


@dataclass(frozen=True)
class Execution:
    """How `lab run` uses devices.

    Attributes
    ----------
    devices
        GPUs (processes, where there is no GPU) of each machine that share every batch.
    nodes
        Machines; start the same command on each, by torchrun, srun, or with MASTER_ADDR, MASTER_PORT and NODE_RANK set.
    strategy
        What devices keep: ddp, each the whole model; fsdp2, each a share of weights, gradients and optimizer. None given: ddp.
    checkpoint_activations
        Compute activations again in the backward pass instead of keeping them: less memory, the same numbers, on long sequences
        that are cut in time up to rounding.
    compile
        Have torch compile the backbone: faster steps after a slow first one, the same numbers up to rounding.
    """

    devices: int = 1
    nodes: int = 1
    strategy: Literal["ddp", "fsdp2"] | None = None
    checkpoint_activations: bool = False
    compile: bool = False

    @property
    def world(self) -> int:
        """Processes that share a batch, one a device."""
        return self.devices * self.nodes

    @property
    def sharded(self) -> bool:
        """Whether no device has the whole model."""
        return self.strategy == "fsdp2"

    @property
    def distributed(self) -> bool:
        """Whether processes must find each other. One with fsdp2 must too: it reads what many wrote."""
        return self.world > 1 or self.sharded

    def written(self) -> dict[str, Any]:
        """As a record has it."""
        return asdict(self) | {"strategy": self.strategy or ("ddp" if self.world > 1 else None)}

    def check(self, spec: Spec) -> None:
        """See that a run can be carried out so, here.

        Raises:
            UsageError: it cannot; names the flag and the way out.
        """
        import torch

        for flag, value in (("--devices", self.devices), ("--nodes", self.nodes)):
            if value < 1:
                raise UsageError(f"{flag} {value}: at least one is needed")
        if self.strategy == "ddp" and self.world == 1:
            raise UsageError("--strategy ddp: it is for several devices; give --devices 2 or more, or leave it out")
        if torch.cuda.is_available() and self.devices > torch.cuda.device_count():
            raise UsageError(f"--devices {self.devices}: this machine has {torch.cuda.device_count()}; give that many or fewer")
        started = started_outside()
        if self.distributed and started not in (None, self.world):
            raise UsageError(
                f"--devices {self.devices} --nodes {self.nodes}: {started} processes were started for this run; "
                "start as many as devices times nodes"
            )
        if self.nodes > 1 and not started and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
            raise UsageError(
                f"--nodes {self.nodes}: start this on each machine by torchrun or srun, or with MASTER_ADDR, MASTER_PORT and "
                "NODE_RANK set"
            )
        if spec.batch % (spec.accumulate * self.world):
            raise UsageError(
                f"--devices {self.devices}: a step's {spec.batch} sequences (--batch) cannot be shared equally by {self.world} "
                f"devices in {spec.accumulate} parts; give a --batch that {spec.accumulate * self.world} divides"
            )
        if self.sharded and spec.recipe.get("optimizer") == "adafactor":
            raise UsageError("--strategy fsdp2: torch's Adafactor takes no shares of weights; use ddp, or a recipe with adamw")
        if self.compile and spec.carry_state:
            raise UsageError("--compile with --carry-state: only the parallel form is compiled; leave one of them out")


def started_outside() -> int | None:
    """How many processes torchrun or srun started for this command; None where neither did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return tasks if tasks > 1 else None


PLAIN = Execution()
