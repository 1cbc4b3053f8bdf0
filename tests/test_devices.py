"""A run on several devices is the run: processes over gloo, for real. What a GPU would do otherwise, NCCL, is not tried here."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from test_carried import CYCLE
from test_training import curve
from torch.nn.modules.module import register_module_forward_hook

from lab import dcp, overhead, plugins, presets, training
from lab.checkpoint import DurableIO, parts
from lab.distributed import Ranks
from lab.errors import UsageError
from lab.execution import Execution
from lab.planning import Planner, Shape
from lab.run import Spec, Store

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def environment_as_it_was():
    """Lightning leaves in it where ranks meet."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def start(folder, strategy, rank, port, plugin=None, **how):
    """One rank of tests/ranks.py; it reads specs."""
    how = json.dumps({"plugin": plugin} | how)
    place = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(ROOT / "tests/ranks.py"), str(folder), strategy, how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | place)


def together(folder, specs, strategy, devices=2, **how):
    """Train all of them on several devices."""
    port = find_free_network_port()
    ranks = [start(folder, strategy, rank, port, devices=devices, **how) for rank in range(devices)]
    lines = "".join(json.dumps(asdict(spec)) + "\n" for spec in specs)
    for rank in ranks:
        rank.stdin.write(lines)
        rank.stdin.close()
        rank.stdin = None
    said = [rank.communicate(timeout=800)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * devices, "\n".join(said)


def trained(store, spec):
    return DurableIO().load_checkpoint(store.folder(spec.id) / "checkpoint")["state_dict"]


def assert_same(one, other, spec):
    """Losses and weights to 1e-6, scores as much as follows from that; steps, tokens and FLOPs exactly.

    In bfloat16 a weight's gradient is rounded to three digits for the rows of each device, and then summed.
    """
    tolerance = 1e-6 if spec.precision == "float32" else 1e-2
    losses = [[row["loss"] for row in curve(store, spec)] for store in (one, other)]
    assert losses[0] == pytest.approx(losses[1], abs=tolerance), spec.architecture
    expected, found = trained(one, spec), trained(other, spec)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (value - found[name]).abs().max() <= tolerance * max(1.0, float(value.abs().max())), (spec.architecture, name)
    records = [store.find(spec.id) for store in (one, other)]
    for field in ("status", "steps", "tokens", "flops", "flops_by_kind", "parameters", "state_size", "evaluation_flops"):
        assert records[0][field] == records[1][field], field
    assert records[0]["scores"]["test"] == pytest.approx(records[1]["scores"]["test"], abs=max(tolerance, 2e-3))


@pytest.fixture
def cycle(tmp_path):
    """A long text in which every row reads something else."""
    mixed = CYCLE.replace("np.tile([0, 0, 1, 1], symbols // 4)", "np.random.default_rng(0).integers(0, 2, symbols)")
    (tmp_path / "cycle.py").write_text(mixed)
    plugins.add_file(str(tmp_path / "cycle.py"))
    return str(tmp_path / "cycle.py")


def small(architecture, task="flip_flop:length=32", steps=8, batch=8, **planner):
    """Rows of flip_flop are asked different numbers of times.

    With Adam's usual eps a gradient that is nothing but rounding would move its weight as far as any other.
    """
    planner = {"recipe": replace(presets.read("lab"), eps=1e-3)} | planner
    return overhead._spec_of(Planner(Shape(dim=8, depth=2), batch, **planner), architecture, task, steps)


@pytest.mark.parametrize(
    ("strategy", "count"), [("ddp", 2), *(pytest.param(name, 6, marks=pytest.mark.slow) for name in ("ddp", "fsdp2"))]
)
def test_two_devices_are_one(tmp_path, cycle, strategy, count):
    specs = [
        small("transformer:mlp=moe", accumulate=2),
        small("lstm", "cycle", carry_state=True, accumulate=2),
        small("linear_rnn", precision="bfloat16"),
        small("transformer"),
        small("linear_rnn", accumulate=2),
        small("transformer:attention=window,window=4", "cycle", carry_state=True),
    ][:count]
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    for spec in specs:
        training.train(spec, one, leak_gate=False)
    together(two.root, specs, strategy, plugin=cycle)
    for spec in specs:
        assert_same(one, two, spec)
        execution = two.find(spec.id)["environment"]["execution"]
        assert (execution["devices"], execution["nodes"], execution["strategy"]) == (2, 1, strategy)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param((2, 1), marks=pytest.mark.slow),
        pytest.param((1, 2), marks=pytest.mark.slow),
        pytest.param((2, 4), marks=pytest.mark.slow),
    ],
)
def test_shards_are_read_by_another_number_of_devices(tmp_path, cycle, order):
    """Interrupted on some devices and gone on with on others, with the same batches to the same end."""
    specs = [small("transformer:mlp=moe", steps=10), small("lstm", "cycle", steps=10, carry_state=True)]
    straight, moved = Store(tmp_path / "straight"), Store(tmp_path / "moved")
    for spec in specs:
        training.train(spec, straight, leak_gate=False)
    for devices, stop in zip(order, (6, None), strict=True):
        if devices == 1:
            for spec in specs:
                left = iter([False] * 5)
                alone = Ranks(Execution(strategy="fsdp2"))
                training.train(spec, moved, leak_gate=False, ranks=alone, stop=lambda: stop and next(left, True))  # noqa: B023
        else:
            together(moved.root, specs, "fsdp2", devices, stop=stop, plugin=cycle)
        if stop:
            for spec in specs:
                assert moved.find(spec.id) is None
                assert (moved.folder(spec.id) / "checkpoint").is_dir()
    for spec in specs:
        assert_same(straight, moved, spec)


@pytest.fixture
def alone():
    return Ranks(Execution(strategy="fsdp2"))


def test_a_damaged_folder_goes_back_to_the_one_before(tmp_path, monkeypatch, alone):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    spec, straight, broken = small("transformer"), Store(tmp_path / "straight"), Store(tmp_path / "broken")
    training.train(spec, straight, leak_gate=False)
    asked = iter(range(100))
    training.train(spec, broken, leak_gate=False, ranks=alone, stop=lambda: next(asked) > 4)
    newest, before, _ = parts(broken.folder(spec.id) / "checkpoint")
    assert newest.is_dir()
    assert before.is_dir()
    shard = max(newest.glob("*.distcp"), key=lambda file: file.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="was cut or changed"):
        training.train(spec, broken, leak_gate=False, ranks=Ranks(Execution(strategy="fsdp2")))
    assert_same(straight, broken, spec)


def test_one_file_and_shards_do_not_mix_unsaid(tmp_path, alone):
    spec = small("transformer")
    for first, second in ((Ranks(), alone), (Ranks(Execution(strategy="fsdp2")), Ranks())):
        store, left = Store(tmp_path / str(first.execution.strategy)), iter([False, False])
        training.train(spec, store, leak_gate=False, ranks=first, stop=lambda: next(left, True))  # noqa: B023
        with pytest.raises(UsageError, match="fsdp2"):
            training.train(spec, store, leak_gate=False, ranks=second)


def test_code_in_a_folder_is_not_run(tmp_path, alone):
    spec, store = small("transformer"), Store(tmp_path / "store")
    training.train(spec, store, leak_gate=False, ranks=alone)
    assert set(DurableIO().load_checkpoint(store.folder(spec.id) / "checkpoint")) > {"state_dict", "states"}

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for name, write in ((".metadata", pickle.dump), ("rest.pt", torch.save)):
        folder = tmp_path / f"with {name}"
        shutil.copytree(store.folder(spec.id) / "checkpoint", folder)
        with open(folder / name, "wb") as file:
            write({"all": Bomb()}, file)
        with pytest.raises(pickle.UnpicklingError):
            dcp.read(folder)
    assert not (tmp_path / "exploded").exists()


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("rwkv", "transformer:mlp=moe")]


@pytest.mark.parametrize("architecture", ["transformer", "linear_rnn", *SLOWER])
def test_activations_computed_again_change_no_bit(tmp_path, architecture):
    spec = small(architecture, steps=4, recipe=replace(presets.read("shared"), dropout=0.1))
    again = Ranks(Execution(checkpoint_activations=True))
    one, other, read = Store(tmp_path / "kept"), Store(tmp_path / "again"), []
    for store, ranks in ((one, Ranks()), (other, again)):
        read.append(0)
        with register_module_forward_hook(lambda module, *_: read.__setitem__(-1, read[-1] + module.training)):
            training.train(spec, store, leak_gate=False, ranks=ranks)
    assert read[1] > read[0]
    assert curve(one, spec) == curve(other, spec)
    expected, found = trained(one, spec), trained(other, spec)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's compiler uses what torch warns of
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("architecture", ["transformer", "lstm"])
def test_a_compiled_backbone_gives_the_same_numbers(tmp_path, architecture, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the tests' checks of shapes cannot be compiled
    spec = small(architecture, steps=4)
    one, other = Store(tmp_path / "plain"), Store(tmp_path / "compiled")
    training.train(spec, one, leak_gate=False)
    training.train(spec, other, leak_gate=False, ranks=Ranks(Execution(compile=True)))
    assert_same(one, other, spec)


@pytest.mark.parametrize(
    ("execution", "environment", "message"),
    [
        (Execution(devices=0), {}, "--devices 0: at least one"),
        (Execution(nodes=0), {}, "--nodes 0: at least one"),
        (Execution(strategy="ddp"), {}, "--strategy ddp.*--devices 2 or more"),
        (Execution(devices=3), {}, "--devices 3: a step's 8 sequences.*3 devices in 1 parts; give a --batch that 3 divides"),
        (Execution(devices=2, nodes=2), {}, "--nodes 2: start this on each machine.*torchrun or srun.*MASTER_ADDR"),
        (Execution(devices=2), {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "4"}, "--devices 2 --nodes 1: 4 processes"),
        (Execution(devices=2), {"SLURM_STEP_NUM_TASKS": "8"}, "--devices 2 --nodes 1: 8 processes"),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch, execution, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        execution.check(small("transformer"))


def test_more_devices_than_there_are_and_other_refusals(monkeypatch):
    spec = small("transformer")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="--devices 2: this machine has 1; give that many or fewer"):
        Execution(devices=2).check(spec)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="--batch that 16 divides"):
        Execution(devices=4).check(replace(small("transformer"), accumulate=4))
    with pytest.raises(UsageError, match="--compile with --carry-state"):
        Execution(compile=True).check(replace(small("transformer"), carry_state=True))
    with pytest.raises(UsageError, match="--strategy fsdp2: torch's Adafactor"):
        Execution(strategy="fsdp2").check(small("transformer", recipe=presets.read("shared:optimizer=adafactor")))


RUN = ["run", "--task", "flip_flop:length=32", "--dim", "8", "--batch", "8"]


class Command:
    """`lab run` in a process of its own, on two devices."""

    def __init__(self, folder, *more, architecture="transformer", budget="1e12", launcher=(), **told):
        self.folder = folder
        command = [*launcher, "-m", "lab", *RUN, "--architecture", architecture, "--budget", budget, "--results", str(folder)]
        self.process = subprocess.Popen(
            [sys.executable, *command, *more], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | told, cwd=folder.parent
        )

    def steps(self):
        """Once there are some."""
        while self.process.poll() is None and not any(map(Path.read_text, self.folder.glob("runs/*/curve.jsonl"))):
            time.sleep(0.1)
        return self

    def others(self):
        """The processes that it started."""
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        return list(map(int, listed))

    def end(self):
        """Its exit code and last line; nothing that it started is left."""
        others, said = self.others(), self.process.communicate(timeout=600)[1]
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{other}").exists() for other in others):
            assert time.monotonic() < deadline, "ranks are left"
            time.sleep(0.1)
        return self.process.returncode, (said.splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("whom", "number", "more"),
    [
        pytest.param("first", signal.SIGTERM, (), marks=pytest.mark.slow),
        pytest.param("other", signal.SIGTERM, (), marks=pytest.mark.slow),
        pytest.param("first", signal.SIGINT, ("--strategy", "fsdp2"), marks=pytest.mark.slow),
    ],
)
def test_asked_to_stop_all_ranks_stop_after_the_same_step(tmp_path, whom, number, more):
    command = Command(tmp_path / "results", "--devices", "2", *more).steps()
    os.kill(command.process.pid if whom == "first" else command.others()[0], number)
    code, last = command.end()
    assert code == 75
    assert last.startswith("lab: interrupted; go on with: lab run")
    [folder] = (tmp_path / "results/runs").iterdir()
    assert not (folder / "holder").exists(), "it did not end in order"
    assert DurableIO().load_checkpoint(folder / "checkpoint")["global_step"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_rank_that_dies_takes_the_run_with_it_and_not_its_checkpoint(tmp_path, strategy):
    more = ("--devices", "2", "--strategy", strategy)
    command = Command(tmp_path / "results", *more).steps()
    [other] = command.others()
    [folder] = (tmp_path / "results/runs").iterdir()
    while not (folder / "checkpoint").exists():
        time.sleep(0.1)
    os.kill(other, signal.SIGKILL)
    assert command.end() == (
        1, f"lab: rank 1 of 2 (process {other}) ended with signal 9; the same command goes on from the last checkpoint",
    )  # fmt: skip
    assert DurableIO().load_checkpoint(folder / "checkpoint")["global_step"] >= 1
    command = Command(tmp_path / "results", *more)
    while not command.others():
        time.sleep(0.1)
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL


HANGS = """
import os, time
from datetime import timedelta
from architectures.linear_rnn import LinearRNN
from lab import distributed

distributed.TIMEOUT = timedelta(seconds=10)

class Hangs(LinearRNN):
    steps = 0
    def forward(self, x):
        self.steps += self.training
        if self.steps == 4 and os.environ.get("LOCAL_RANK") == "1":
            time.sleep(3600)
        return super().forward(x)
"""


@pytest.mark.slow
def test_a_rank_that_does_not_answer_is_given_up(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    more = ("--plugin", str(tmp_path / "hangs.py"), "--no-leak-gate", "--devices", "2")
    code, last = Command(tmp_path / "results", *more, architecture="hangs").end()
    assert code == 1
    assert "another rank is gone or does not answer" in last


@pytest.mark.slow
@pytest.mark.parametrize("way", ["torchrun", "srun", "nodes"])
def test_ranks_that_others_start(tmp_path, way):
    """torchrun for real; srun by what it tells its tasks; two machines that are one."""
    port, budget, folder = str(find_free_network_port()), "4e8", tmp_path / "results"
    if way == "torchrun":
        launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port)
        commands = [Command(folder, "--devices", "2", budget=budget, launcher=launcher)]
    elif way == "srun":
        told = {"SLURM_JOB_ID": port, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODELIST": "127.0.0.1",
                "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0"}  # fmt: skip
        commands = [
            Command(folder, "--devices", "2", budget=budget, **told, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
            for rank in range(2)
        ]
    else:
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        commands = [
            Command(folder, "--devices", "2", "--nodes", "2", budget=budget, **told, NODE_RANK=str(node)) for node in range(2)
        ]
    codes = [command.process.communicate(timeout=600)[1] and command.process.returncode for command in commands]
    assert not any(codes)
    [record] = [json.loads(file.read_text()) for file in folder.glob("runs/*/run.json")]
    spec = Spec.read(record["spec"])
    training.train(spec, Store(tmp_path / "one"), leak_gate=False)
    assert_same(Store(tmp_path / "one"), Store(folder), spec)
    assert record["environment"]["execution"]["nodes"] == (2 if way == "nodes" else 1)
