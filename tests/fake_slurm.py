"""As much of Slurm as submitit talks to, on this machine: sbatch, srun, sacct, scancel and scontrol, each a link to this file.

State lies in $FAKE_SLURM: a folder a job, with the id of its process group and its state; `submitted` has the scripts.
"""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def install(folder):
    """Commands in a folder, for PATH."""
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


def sbatch(script):
    text = Path(script).read_text()
    job = str(int(time.time() * 1000))
    (STATE / "submitted").mkdir(parents=True, exist_ok=True)
    (STATE / "submitted" / job).write_text(text)
    nothing = subprocess.DEVNULL
    subprocess.Popen([sys.executable, __file__, "queue", job], start_new_session=True, stdout=nothing, stderr=nothing)
    print(f"Submitted batch job {job}")


def queue(job):
    text = (STATE / "submitted" / job).read_text()
    array = re.search(r"#SBATCH --array=0-(\d+)%(\d+)", text)
    last, at_once = map(int, array.groups()) if array else (0, 1)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda task: run(job, f"{job}_{task}" if array else job), range(last + 1)))


def run(job, name):
    folder = STATE / name
    folder.mkdir()
    array, _, task = name.partition("_")
    environment = os.environ | {"SLURM_JOB_ID": name, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0",
                                "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "here"}  # fmt: skip
    if task:
        environment |= {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task}
    while True:
        command = ["bash", str(STATE / "submitted" / job)]
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        (folder / "group").write_text(str(process.pid))
        (folder / "state").write_text("RUNNING")
        code = process.wait()
        if not (folder / "requeue").exists():
            break
        (folder / "requeue").unlink()
    (folder / "state").write_text("FAILED" if code else "COMPLETED")


def srun(*words):
    command = next(i for i, word in enumerate(words) if word.startswith("/"))
    while "=" in words[command] or words[command - 1] in ("--output", "--error"):
        command = next(i for i in range(command + 1, len(words)) if words[i].startswith("/"))
    os.execv(words[command], words[command:])


def sacct(*_):
    print("JobID|State|NodeList")
    for folder in STATE.glob("[0-9]*"):
        print(f"{folder.name}|{(folder / 'state').read_text()}|here")


def scancel(name, option="", number="SIGTERM"):
    for folder in STATE.glob(f"{name}*"):
        if (folder / "state").read_text() == "RUNNING":
            number = number if number.startswith("SIG") else f"SIG{number}"
            os.killpg(int((folder / "group").read_text()), getattr(signal, number))


def scontrol(what, name):
    (STATE / name / what).touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
