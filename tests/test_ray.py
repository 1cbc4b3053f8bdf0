"""The Ray engine on a real cluster of two nodes on one machine, under real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from processes import processes

from lab import overhead, training
from lab.engines import node, starter
from lab.engines.child import Orders
from lab.errors import UsageError
from lab.planning import Planner, Shape
from lab.run import Store

SPEC = overhead._spec_of(Planner(Shape(dim=16, depth=1), batch=2), "transformer", "selective_copying", 60)
LAB = [sys.executable, "-m", "lab"]
pytestmark = [pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore::ResourceWarning")]


def numbers(root):
    records = [json.loads(path.read_text()) for path in Path(root).glob("runs/*/run.json")]
    return {record["id"]: (record["status"], record["scores"], record["flops"], record["steps"]) for record in records}


@contextmanager
def two_nodes(cores=1):
    """A head node with `cores` cores and another; the cluster, and the second node."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    size = {"num_cpus": cores, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=size)
    try:
        yield cluster, cluster.add_node(**{name: value for name, value in size.items() if name != "include_dashboard"})
    finally:
        cluster.shutdown()


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for(what, seconds=600.0):
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.1)
    assert found, "waited in vain"
    return found


def carried_out(engine, root, specs, listener=lambda spec, event: None, workers=0):
    pool = starter(engine, workers)(Store(root))
    try:
        pool.carry_out(specs, listener)
    finally:
        pool.close()
    return numbers(root)


def test_a_lost_worker_and_a_folder_that_nodes_do_not_see(tmp_path, monkeypatch):
    """Results equal the local engine's, whoever is killed and wherever they are kept."""
    specs = [replace(SPEC, seed=seed, budget=2 * SPEC.budget) for seed in range(2)]
    for spec in specs:
        training.train(spec, Store(tmp_path / "local"))
    expected = numbers(tmp_path / "local")
    shared, apart, told = tmp_path / "shared", tmp_path / "apart", []

    def kill(spec, event):
        told.append((event["event"], event.get("reason")))
        if event["event"] == "step" and ("died", "signal 9") not in told:
            for child in processes("lab.worker", str(shared)):
                os.kill(parent(child) if len(told) < 2 else child, signal.SIGKILL)

    with two_nodes() as (cluster, _):
        engine = f"ray:{cluster.address}"
        assert carried_out(engine, shared, specs, kill) == expected
        assert ("died", "its Ray worker was lost") in told
        with monkeypatch.context() as patch:
            patch.setattr(Path, "touch", lambda *_: None)  # no token: as where the folder is not shared
            assert carried_out(engine, apart, specs[:1]) == {specs[0].id: expected[specs[0].id]}
    assert not list(Path(os.environ["LAB_CACHE"]).glob("ray/*/runs/*")), "what was brought to the driver is left nowhere else"
    files = {file.name for file in (apart / "runs" / specs[0].id).iterdir()}
    assert files >= {"spec.json", "run.json", "curve.jsonl", "log.txt", "checkpoint", "checkpoint.sha256"}
    assert not processes("lab.worker", str(tmp_path))


def node_says(tmp_path, **changed):
    session = node.Session(Orders(str(tmp_path / "store")), node.source([]), "mine")
    return list(node.carry_out(asdict(SPEC), str(tmp_path / "no token"), replace(session, **changed)))


def test_a_folder_is_forgotten_while_its_worker_lets_go_of_it(tmp_path, monkeypatch):
    folder, unlink = tmp_path / "run", os.unlink
    folder.mkdir()
    for name in ("holder", "run.json"):
        (folder / name).touch()

    def late(name, **given):
        """The worker removes its claim first, and leaves one more file."""
        monkeypatch.setattr(os, "unlink", unlink)
        (folder / "holder").unlink(missing_ok=True)
        (folder / "log.txt").touch()
        unlink(name, **given)

    monkeypatch.setattr(os, "unlink", late)
    node._forget(folder)
    assert not folder.exists()


def test_a_node_with_other_code_or_without_a_plug_in_does_nothing(tmp_path):
    (told,) = node_says(tmp_path, source="other")
    assert told["event"] == "died"
    assert "another version than the driver's" in told["reason"]
    (told,) = node_says(tmp_path, orders=Orders(str(tmp_path / "store"), (str(tmp_path / "mine.py"),)))
    assert told["event"] == "died"
    assert f"{tmp_path}/mine.py cannot be read on" in told["reason"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("rya", "no such engine; did you mean ray?"),
        ("local:2", "no such engine; did you mean local?"),
        ("ray:somewhere", "must be ray:HOST:PORT"),
        ("ray:ray://a:1", "must be ray:HOST:PORT"),
    ],
)
def test_engines_that_there_are_not(engine, said):
    with pytest.raises(UsageError, match=f"^--engine {engine}: .*{said[:20]}"):
        starter(engine, 1)


def test_ray_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("lab.engines.ray.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'sequence-lab\[ray\]'"):
        starter("ray", 1)


@pytest.mark.slow
def test_24_runs_survive_the_loss_of_a_worker_of_a_node_and_of_the_driver(tmp_path):
    """Each result arrives once, and all numbers are the local engine's."""
    what = ["--architectures", "linear_rnn", "lstm", "--tasks", "recall", "selective_copying", "--dim", "16", "--depth", "1",
            "--batch", "2", "--budget", "1e9", "--seeds", "6"]  # fmt: skip
    root = tmp_path / "ray"

    def compare(results, *more, **popen):
        command = [*LAB, "compare", *what, "--results", str(results), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen)

    def done():
        return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("runs/*/run.json")}

    def busy():
        """Children that train: the run of each has a curve."""
        curves = {path.parent.name for path in root.glob("runs/*/curve.jsonl")} - set(done())
        return curves and processes("lab.worker", str(root))

    local = compare(tmp_path / "local")
    _, said = local.communicate(timeout=1500)
    assert local.returncode == 0, said
    with two_nodes() as (cluster, second):
        driver = compare(root, "--engine", f"ray:{cluster.address}")
        wait_for(lambda: len(done()) >= 3)
        os.kill(parent(wait_for(busy)[0]), signal.SIGKILL)
        wait_for(lambda: len(done()) >= 8)
        wait_for(busy)
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        wait_for(lambda: len(done()) >= 14)
        wait_for(busy)
        driver.kill()
        _, first = driver.communicate()
        wait_for(lambda: not processes("lab.worker", str(root)))
        before = done()
        assert 14 <= len(before) < 24
        again = compare(root, "--engine", f"ray:{cluster.address}")
        _, then = again.communicate(timeout=1500)
    assert again.returncode == 0, then
    print(f"first driver:\n{first}\nsecond driver:\n{then}")
    assert "its Ray worker was lost" in first
    assert f"24 runs, {len(before)} of them done before" in then
    assert {name: done()[name] for name in before} == before, "finished runs must be left alone"
    assert len(done()) == 24
    assert numbers(root) == numbers(tmp_path / "local")


def listening(pids):
    """Addresses that processes listen at, as /proc has them: hexadecimal."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(os.readlink(link))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.slow
def test_a_cluster_of_its_own_is_quiet_local_and_interruptible(tmp_path):
    """SIGTERM: checkpoints, exit code 75, nothing left behind; the same command again has the local engine's numbers."""
    what = ["--architectures", "lstm", "--tasks", "recall", "--dim", "16", "--depth", "1", "--batch", "2", "--seeds", "2"]

    def compare(results, *more):
        command = [*LAB, "compare", *what, "--results", str(results), "--budget", "3e9", "--workers", "2", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    root = tmp_path / "ray"
    driver = compare(root, "--engine", "ray", "--json")
    curves = wait_for(lambda: list(root.glob("runs/*/curve.jsonl")))
    mine = [pid for pid in processes("ray") if Path(f"/proc/{pid}/environ").exists() and descends(pid, driver.pid)]
    assert len(mine) > 3
    assert listening(mine) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    driver.send_signal(signal.SIGTERM)
    out, said = driver.communicate(timeout=120)
    assert driver.returncode == 75, said
    assert not out
    assert "interrupted; go on with" in said
    assert not [line for line in said.splitlines() if "raylet" in line or "Traceback" in line or "ray.io" in line]
    assert all((curve.parent / "checkpoint").exists() for curve in curves)
    assert not processes("lab.worker", str(root))
    assert not [pid for pid in mine if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()]
    for results, engine in ((root, "ray"), (tmp_path / "local", "local")):
        driver = compare(results, "--engine", engine, "--json")
        out, said = driver.communicate(timeout=1500)
        assert driver.returncode == 0, said
        assert len(json.loads(out)) == 2
    assert numbers(root) == numbers(tmp_path / "local")


@pytest.mark.slow
def test_a_frontier_on_ray_is_the_local_one(tmp_path):
    """Sizes are chosen by what runs gave, so the runs are the same only where each result is."""
    what = ["--architectures", "lstm", "--budgets", "1e8", "2e8", "--sizes", "4", "--depth", "2", "--batch", "1",
            "--task", "selective_copying", "--tune", "3", "--workers", "2", "--json"]  # fmt: skip
    found = {}
    for engine in ("ray", "local"):
        command = [*LAB, "frontier", *what, "--results", str(tmp_path / engine), "--engine", engine]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stderr
        found[engine] = json.loads(done.stdout), numbers(tmp_path / engine), numbers(tmp_path / engine / "tuning")
    assert found["ray"] == found["local"]
    assert all(len(each) > 5 for each in found["ray"][1:])


def descends(pid, ancestor):
    with suppress(OSError):
        while pid > 1:
            if pid == ancestor:
                return True
            pid = parent(pid)
    return False
