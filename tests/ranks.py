"""Train runs as one of several ranks: `python ranks.py RESULTS STRATEGY HOW < specs`, a JSON line each."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from lab import plugins
from lab.distributed import Ranks
from lab.execution import Execution
from lab.run import Spec, Store
from lab.training import train


def main(results, strategy, devices, plugin, stop=None, **how):
    torch.set_num_threads(1)
    if plugin:
        plugins.add_file(plugin)
    port = int(os.environ["MASTER_PORT"])
    for number, line in enumerate(sys.stdin):
        os.environ["MASTER_PORT"] = str(port + number)
        spec = Spec.read(json.loads(line))
        ranks, steps = Ranks(Execution(devices=devices, strategy=strategy, **how)), iter(range(1, 1 << 30))
        run = train(spec, Store(results), ranks=ranks, leak_gate=False, stop=lambda: next(steps) == stop)  # noqa: B023
        assert run.status == ("interrupted" if stop else "done"), run.reason


if __name__ == "__main__":
    main(*sys.argv[1:3], **json.loads(sys.argv[3]))
