"""One run on several devices: a process for each, every one of which reads its rows of every batch.

The rows of part a of a batch are shared in order: rank r of W reads the r-th of W equal pieces, so that all ranks together read
what one device would. A rank's loss weighs as much as the rank has answers; as gradients are averaged over ranks, that makes
the gradient the batch's. What depends on the clock or on a signal is agreed on after each step. Only rank 0 writes.

Ranks that neither torchrun nor srun started are started here, by the same command again with LOCAL_RANK set, which is how
Lightning's LightningEnvironment knows processes that others started. Its own launcher is not used: it ends the command by a
silent SIGKILL when a rank dies.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from lab.errors import UsageError
from lab.execution import PLAIN, Execution, started_outside
from lab.model import Model
from lab.recomputing import recompute

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it gives up."""
GRACE = 3.0
"""Seconds that this process has to notice by itself that another one died."""


class RankLost(UsageError):
    """A process of the run is gone or does not answer. The command line exits with 1."""

    exit_code = 1


class Ranks:
    """The processes of a run, seen from one of them.

    rank: this one's number among all. first: whether it is the one that writes.
    """

    def __init__(self, execution: Execution = PLAIN) -> None:
        self.execution, self.world = execution, execution.world
        self.environment, self.rank = _environment(execution)
        self.first = self.rank == 0
        self._started: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have the other ranks of this machine at work for the block; none is left after it.

        Raises:
            RankLost: one of them, or of another machine, ended or does not answer.
        """
        self._start()
        try:
            yield
        except RuntimeError as error:
            if silence := _silence(error):
                raise RankLost(f"{self._lost() or silence}; the same command goes on from the last checkpoint") from error
            raise
        finally:
            self._over.set()
            for process in self._started:
                process.kill()
                process.wait()

    def join(self) -> None:
        """Meet the others; once."""
        if self.execution.distributed and not dist.is_initialized():
            device = torch.device("cuda", self.environment.local_rank()) if torch.cuda.is_available() else None
            if device:
                torch.cuda.set_device(device)
            meeting = f"tcp://{self.environment.main_address}:{self.environment.main_port}"
            dist.init_process_group("nccl" if device else "gloo", meeting, TIMEOUT, self.world, self.rank)

    def leave(self) -> None:
        """Wait until all are here, and part."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()

    def sum(self, value: float) -> float:
        """Over all ranks."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def largest(self, value: float) -> float:
        """Of all ranks."""
        return self._reduced(value, dist.ReduceOp.MAX)

    def gathered(self, value: Any) -> list[Any]:
        """Every rank's."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def seed(self, seed: int, step: int, part: int) -> int:
        """Where this rank's generators begin for a part of a step: a function of its arguments and of the rank."""
        return int(np.random.SeedSequence((seed, step, part, self.rank)).generate_state(1)[0])

    def strategy(self) -> Strategy | str:
        """Lightning's."""
        if self.execution.sharded:
            from lab.sharded import Sharded

            return Sharded(self.world)
        return DDPStrategy() if self.world > 1 else "auto"

    def _reduced(self, value: float, how: Any) -> float:
        if self.world == 1:
            return value
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, how)
        return tensor.item()

    def _start(self) -> None:
        if not self.execution.distributed or started_outside():
            return
        if "LOCAL_RANK" in os.environ:
            threading.Thread(target=_end_with_standard_input, daemon=True).start()
            return
        os.environ |= {"MASTER_ADDR": self.environment.main_address, "MASTER_PORT": str(self.environment.main_port)}
        command = [sys.executable, "-m", "lab", *sys.argv[1:]]
        for local in range(1, self.execution.devices):
            self._started.append(
                subprocess.Popen(
                    command,
                    env=os.environ | {"LOCAL_RANK": str(local)},
                    stdin=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for the first; it tells the others
                )
            )
        os.environ["LOCAL_RANK"] = "0"
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End this process if another one died while it waits for it in an operation that cannot be left."""
        while not self._over.wait(0.3):
            if reason := self._lost():
                if self._over.wait(GRACE):
                    return
                for process in self._started:
                    process.kill()
                print(f"lab: {reason}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
                os._exit(RankLost.exit_code)

    def _lost(self) -> str:
        """Which rank of this machine failed, and how."""
        until = time.monotonic() + (0.5 if self._started else 0)
        while True:
            for local, process in enumerate(self._started, 1):
                if code := process.poll():
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    return f"rank {self.rank + local} of {self.world} (process {process.pid}) ended with {how}"
            if time.monotonic() > until:
                return ""
            time.sleep(0.05)


def prepare(model: Model, execution: Execution) -> None:
    """Have a model's activations checkpointed or its backbone compiled, in place; names of parameters stay."""
    if execution.checkpoint_activations:
        recompute(model.backbone)
    if execution.compile:
        model.backbone.compile()


def whole(tensor: Tensor) -> Tensor:
    """A tensor's value, put together from the shares of all ranks where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _environment(execution: Execution) -> tuple[ClusterEnvironment, int]:
    """Where this process stands, by whoever started it, and its rank."""
    if not execution.distributed:
        return LightningEnvironment(), 0
    if started_outside():
        found = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment(auto_requeue=False)
        return found, found.global_rank()
    found = LightningEnvironment()
    return found, found.node_rank() * execution.devices + found.local_rank()


def _silence(error: RuntimeError) -> str:
    """What an operation between ranks failed of, if that is what failed."""
    text = str(error)
    if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
        return f"another rank is gone or does not answer ({' '.join(text.split())[:160]})"
    return ""


def _end_with_standard_input() -> None:
    """It is a pipe from the first rank of this machine; when that one is gone, nobody would hear of this one."""
    while os.read(0, 1):
        pass
    os._exit(1)


ALONE = Ranks()
