"""Whole commands in processes of their own: asked to stop, on full disks, two on one store, killed."""

import json
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from lab import checkpoint, cli, training
from lab.run import Spec, Store
from soak import faulty
from soak.checkpoints import wait_for
from soak.children import child, fork
from soak.resume import outcome
from soak.tally import Tally, can_mount

SMALL = ["--task", "selective_copying", "--dim", "8", "--depth", "1", "--batch", "4"]
RUN = ["run", "--architecture", "linear_rnn", *SMALL, "--budget", "3e7"]
FAULTY = str(Path(faulty.__file__))
PROMISED = 10.0
"""Seconds from a signal to the exit."""
PLACES = ("a step", "a long step", "a write of the checkpoint", "the evaluation", "publishing")


def command(arguments: list[str], log: Path, before: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """What a child does: `before`, then a `lab` command, its output in `log`."""

    def work() -> None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = ["lab", *arguments]
        before()
        try:
            cli.main(arguments)
        except SystemExit as left:
            sys.stdout.flush()
            os._exit(left.code if isinstance(left.code, int) else 1)

    return work


def only(root: Path) -> tuple[Store, Spec]:
    """The one run of a store."""
    (folder,) = (root / "runs").iterdir()
    return Store(root), Spec.read(json.loads((folder / "spec.json").read_text()))


def calm(root: Path) -> dict:
    """What the small run comes to if nothing happens."""
    ended = child(command([*RUN, "--results", str(root / "calm")], root / "calm.log"), root)
    assert ended.code == 0, (root / "calm.log").read_text()
    return outcome(*only(root / "calm"))


def arrange(place: str, number: int, asked: Path) -> Callable[[], None]:
    """Let a process send itself a signal in the middle of something, after which that takes a minute if it is long."""

    def send() -> None:
        asked.write_text(str(time.monotonic()))
        os.kill(os.getpid(), number)

    def wrap(owner: object, name: str, at: int, then: float) -> None:
        original, calls = getattr(owner, name), []

        def wrapped(*arguments: object, **more: object) -> object:
            calls.append(1)
            if len(calls) == at:
                send()
                time.sleep(then)
            return original(*arguments, **more)

        setattr(owner, name, wrapped)

    def before() -> None:
        training.CHECKPOINT_SECONDS = 0.02
        if place == "a step":
            wrap(training.Learner, "training_step", 9, 0.0)
        elif place == "a long step":
            wrap(training.Learner, "training_step", 9, 60.0)
        elif place == "a write of the checkpoint":
            wrap(checkpoint, "write_durably", 4, 0.05)
        elif place == "the evaluation":
            wrap(training, "evaluate_all", 1, 60.0)
        else:
            wrap(Store, "publish", 1, 0.0)

    return before


def signals(scale: float, seed: int, root: Path) -> Tally:
    """lab run: SIGTERM and SIGINT wherever it is; then the command that it printed ends as an undisturbed one."""
    tally, slowest = Tally("SIGTERM or Ctrl-C in lab run"), 0.0
    torch.set_num_threads(1)
    expected = calm(root)
    cases = [(place, number) for place in PLACES for number in (signal.SIGTERM, signal.SIGINT)]
    for place, number in cases if scale >= 0.5 else random.Random(seed).sample(cases, max(2, round(scale * len(cases)))):
        store, log, asked = root / "store", root / "log", root / "asked"
        arguments = [*RUN, "--results", str(store)]
        ended = child(command(arguments, log, arrange(place, number, asked)), root)
        took = time.monotonic() - float(asked.read_text())
        slowest = max(slowest, took)
        tally.count(_stopped(ended.code, took, log.read_text(), arguments, place, number) or _continued(root, store, expected))
        shutil.rmtree(store)
        log.unlink()
    tally.notes.append(f"{slowest:.1f} s at most until it was gone")
    return tally


def _stopped(code: int, took: float, log: str, arguments: list[str], place: str, number: int) -> str:
    where = f"{signal.Signals(number).name} in {place}: "
    if place == "publishing":  # it is the end: done
        return "" if code in (0, 75) else f"{where}exit code {code}"
    if code != 75:
        return f"{where}exit code {code}: {log[-300:]}"
    if took > PROMISED:
        return f"{where}it took {took:.1f} s"
    if f"go on with: lab {shlex.join(arguments)}" not in log:
        return f"{where}it does not say how to go on: {log[-300:]}"
    return "" if "Traceback" not in log else f"{where}{log[-300:]}"


def _continued(root: Path, store: Path, expected: dict) -> str:
    ended = child(command([*RUN, "--results", str(store)], root / "again.log"), root)
    if ended.code:
        return f"it did not go on: {(root / 'again.log').read_text()[-300:]}"
    found = outcome(*only(store))
    differ = [name for name in expected if found[name] != expected[name]]
    return f"it differs in {', '.join(differ)}" if differ else ""


def disks(scale: float, seed: int, root: Path) -> Tally:
    """Disks and quotas that are full at any size: the run ends well or with one line, and what is there is whole."""
    tally, rng, codes = Tally("a full disk, or a limit on the size of files"), random.Random(seed), [0, 0]
    torch.set_num_threads(1)
    expected = calm(root)
    largest = (only(root / "calm")[0].folder(only(root / "calm")[1].id) / "checkpoint").stat().st_size
    for number in range(max(4, round(30 * scale))):
        store, log = root / "store", root / "log"
        arguments = [*RUN, "--results", str(store)]
        if number % 2 and can_mount():
            with _small_disk(store, rng.randint(8, 8 * largest // 1024)):
                code, said = _piped(arguments, log, _often)
                wrong = _ended_well(code, said, store)
                shutil.copytree(store, root / "kept")
            shutil.rmtree(store)
            shutil.move(root / "kept", store)
        else:
            limit = rng.choice([rng.randint(1, 4096), rng.randint(4096, 2 * largest)])
            code, said = _piped(arguments, log, partial(_limit, limit))
            wrong = _ended_well(code, said, store)
        codes[not list(store.glob("runs/*/run.json"))] += 1
        tally.corrupt += wrong.startswith("not whole")
        unsaved = not code and "no checkpoint in" in said  # it is done, and said that there was no room for its weights
        known = {name: expected[name] for name in ("record", "curve")} if unsaved else expected
        tally.count(wrong or _continued(root, store, known))
        shutil.rmtree(store, ignore_errors=True)
    tally.notes.append(f"{codes[0]} runs went on to their end, {codes[1]} stopped with one line")
    return tally


def _piped(arguments: list[str], pipe: Path, before: Callable[[], object]) -> tuple[int, str]:
    """Exit code and output of a command; the output is no file, as files are what there is no room for."""
    os.mkfifo(pipe)
    heard = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    code, text = child(command(arguments, pipe, before), pipe.parent).code, b""
    while part := os.read(heard, 1 << 16):
        text += part
    os.close(heard)
    pipe.unlink()
    return code, text.decode()


def _often() -> None:
    training.CHECKPOINT_SECONDS = 0.0


def _limit(size: int) -> None:
    _often()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _ended_well(code: int, log: str, store: Path) -> str:
    for file in store.glob("runs/*/*.json"):
        try:
            json.loads(file.read_text())
        except ValueError:
            return f"not whole: {file.name}"
    if "Traceback" in log or code not in (0, 1, 2):
        return f"exit code {code}: {log[-300:]}"
    return "" if bool(code) != bool(list(store.glob("runs/*/run.json"))) else f"exit code {code}, and run.json disagrees"


@contextmanager
def _small_disk(folder: Path, kilobytes: int):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def compare(store: Path, seeds: int, budget: str) -> list[str]:
    return ["compare", "--architectures", "faulty", "--plugin", FAULTY, "--tasks", *SMALL[1:], "--budget", budget,
            "--seeds", str(seeds), "--workers", "2", "--results", str(store)]  # fmt: skip


def watched(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Of each seed, the processes that trained it, each with its first and last step, in order of time."""
    found = {}
    for file in folder.iterdir():
        spans: dict[int, tuple[float, float]] = {}
        for line in file.read_text().splitlines():
            pid, at = int(line.split()[0]), float(line.split()[1])
            spans[pid] = (spans.get(pid, (at, at))[0], at)
        found[file.name] = sorted(((pid, *span) for pid, span in spans.items()), key=lambda each: each[1])
    return found


def together(scale: float, seed: int, root: Path) -> Tally:
    """Two comparisons on one store; in every second trial one of them is killed with its workers."""
    tally, rng, shared = Tally("two lab compare on one store, one of them killed"), random.Random(seed), 0
    torch.set_num_threads(1)
    seeds = 12
    for number in range(max(2, round(8 * scale))):
        store, watch = root / f"store{number}", root / f"watch{number}"
        watch.mkdir()
        os.environ[faulty.WATCH] = str(watch)
        begun = [_begin(compare(store, seeds, "1e8"), root / f"{name}{number}.log") for name in "ab"]
        killed = number % 2
        if killed:
            wait_for(lambda store=store: len(list(store.glob("runs/*/run.json"))) >= 1)
            time.sleep(rng.uniform(0, 2))
            for pid in (begun[0], *_children(begun[0])):
                os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in begun]
        records = [json.loads(file.read_text()) for file in store.glob("runs/*/run.json")]
        spans = watched(watch)
        overlaps = [name for name, each in spans.items() for one, other in pairwise(each) if other[1] < one[2]]
        again = sum(len(each) - 1 for each in spans.values())
        tally.lost += seeds - len(records)
        tally.doubled += len(overlaps) + (again if not killed else 0)
        shared += len({pid for each in spans.values() for pid, *_ in each}) > 2
        wrong = [f"exit codes {codes}"] * (codes[1] != 0 or (not killed and codes[0] != 0))
        wrong += [f"{name} was trained by two at once" for name in overlaps]
        wrong += ["a record is not done"] * any(record["status"] != "done" for record in records)
        log = (root / f"b{number}.log").read_text()
        tally.count("; ".join([*wrong, log[-300:]]) if wrong or "Traceback" in log else "")
    tally.notes.append(f"in {shared} of them workers of both trained")
    return tally


def _begin(arguments: list[str], log: Path) -> int:
    pid = fork()
    if not pid:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a soak in the background has it ignored
        command(arguments, log)()
        os._exit(1)
    return pid


def _children(pid: int) -> list[int]:
    """The workers of a driver."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(each) for each in found.split()]


def drivers(scale: float, seed: int, root: Path) -> Tally:
    """lab compare: a signal to the driver, to a worker, or to all of them; the printed command then ends with all runs done."""
    tally, slowest = Tally("SIGTERM or Ctrl-C in lab compare, at driver, worker or all"), 0.0
    torch.set_num_threads(1)
    cases = [(who, number) for who in ("driver", "worker", "all") for number in (signal.SIGTERM, signal.SIGINT)]
    cases.remove(("worker", signal.SIGINT))
    for who, number in cases if scale >= 0.5 else random.Random(seed).sample(cases, max(2, round(scale * len(cases)))):
        store, log = root / f"{who}{number}", root / f"{who}{number}.log"
        arguments = compare(store, 2, "3e9")
        driver = _begin(arguments, log)
        began = wait_for(lambda store=store: len(list(store.glob("runs/*/curve.jsonl"))) == 2)
        time.sleep(0.5)
        workers = _children(driver)
        aimed = {"driver": [driver], "worker": workers[:1], "all": [driver, *workers]}[who]
        asked = time.monotonic()
        for pid in aimed:
            os.kill(pid, number)
        if who == "worker":
            wait_for(lambda worker=workers[0]: not _runs(worker), 60)
            took = time.monotonic() - asked
            wait_for(lambda log=log: "trying again from its checkpoint" in log.read_text(), 60)
            os.kill(driver, signal.SIGTERM)
            os.waitpid(driver, 0)
            text = log.read_text()
            wrong = "" if took <= PROMISED and "trying again from its checkpoint" in text else f"{took:.1f} s: {text[-300:]}"
        else:
            code = os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1])
            took = time.monotonic() - asked
            wrong = _stopped(code, took, log.read_text(), arguments, f"lab compare ({who})", number)
        slowest = max(slowest, took)
        trained = [file.parent for file in store.glob("runs/*/curve.jsonl") if file.stat().st_size]
        left = [run.name for run in trained if not (run / "checkpoint").exists() and not (run / "run.json").exists()]
        wrong = wrong or ("" if began else "it did not begin") or (f"no checkpoint of {left}" if left else "")
        tally.lost += len(left)
        tally.count(wrong and f"{signal.Signals(number).name} to {who}: {wrong}")
    tally.notes.append(f"{slowest:.1f} s at most until it was gone")
    return tally


def _runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
