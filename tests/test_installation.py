"""Installed by pip into another environment, with a stranger's package beside it, the lab works from any folder."""

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from lab import plugins

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK = '''"""Echo: say the token of the position before."""

from typing import Annotated
from zlib import crc32

import torch

from tasks.task import Batch, Split, Task, Tokens


class Echo(Task):
    """Echo: say the token of the position before."""

    def __init__(self, *, length: Annotated[int, "positions"] = 12) -> None:
        self.inputs, self.outputs, self.length, self.answers = Tokens(5), 5, length, length

    def batch(self, split: Split, index: int, size: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(crc32(repr((split, index, seed)).encode()))
        tokens = torch.randint(5, (size, self.length), generator=generator)
        return Batch(tokens, tokens.roll(1, 1))

    def baselines(self) -> dict[str, float]:
        return {"chance": 0.2}
'''


def run(*argv, cwd, **environment):
    """Standard output of a command that succeeds, away from this repository."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(argument) for argument in argv], cwd=cwd, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(python, *what, cwd):
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet", "--no-deps",
        "--no-index", "--no-build-isolation", "--ignore-installed", *what, cwd=cwd)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The project without what git ignores, as building writes beside it."""
    copy = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if not name.startswith(("results/", "tests/")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A package of somebody else with one architecture and one task."""
    package = tmp_path_factory.mktemp("outside")
    (package / "strange").mkdir()
    (package / "strange" / "__init__.py").write_text("")
    (package / "strange" / "echo.py").write_text(TASK)
    made = run(sys.executable, "-m", "lab", "new-architecture", "leaky", cwd=package)
    assert "leaky.py is written" in made
    (package / "leaky.py").rename(package / "strange" / "leaky.py")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "strange"\nversion = "1"\n'
        '[project.entry-points."lab.architectures"]\nstranger = "strange.leaky:LeakyBackbone"\n'
        '[project.entry-points."lab.tasks"]\necho = "strange.echo"\n'
    )
    return package


def environment(folder):
    """Python of a new environment that sees what this one has installed, but for this project."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    packages = next(folder.glob("lib/python*/site-packages"))
    packages.joinpath("beside.pth").write_text("\n".join(site.getsitepackages()))  # a path alone: its own .pth are not read
    return folder / "bin" / "python"


def try_out(python, folder):
    """What a user does first, from another folder."""
    lab = python.with_name("lab")
    listed = json.loads(run(lab, "list", "--json", cwd=folder))
    assert {entry["name"] for entry in listed["architectures"]} == {*plugins.names("architectures"), "stranger"}
    assert {entry["name"] for entry in listed["tasks"]} == {*plugins.names("tasks"), "echo"}
    where = run(
        python, "-c", "import lab, tasks, architectures as a; print(lab.__file__, a.__file__, tasks.__file__)", cwd=folder
    )
    assert str(ROOT) not in where
    return lab


def runs(lab, architecture, task, folder, *more):
    size = ("--dim", 8, "--depth", 1, "--batch", 2)
    made = run(lab, "run", "--architecture", architecture, "--task", task, "--budget", "2e6", *size, "--json", *more, cwd=folder)
    assert json.loads(made)["status"] == "done"
    assert list(folder.glob("results/runs/*/run.json"))


def test_installed_for_editing_with_a_package_from_outside(tmp_path, source, outside):
    python = environment(tmp_path / "venv")
    install(python, "--editable", source, cwd=tmp_path)
    install(python, "--editable", outside, cwd=tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    lab = try_out(python, folder)
    assert "stranger: keeps every law" in run(lab, "check", "stranger", cwd=folder)
    runs(lab, "stranger", "echo:length=9", folder)
    assert "Echo" in run(lab, "show", "echo", cwd=folder)
    assert run(lab, "new-architecture", "mine", cwd=folder).startswith("mine.py is written")
    assert "mine: keeps every law" in run(lab, "check", "mine", "--plugin", "mine.py", cwd=folder)
    runs(lab, "mine", "echo", folder, "--plugin", "mine.py")


def test_installed_as_a_wheel(tmp_path, source, outside):
    """With all that is no Python: templates, studies, pages; and every kernel."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    for project in (source, outside):
        run(*pip, "--no-index", "--wheel-dir", tmp_path / "wheels", project, cwd=tmp_path)
    python = environment(tmp_path / "venv")
    install(python, *(tmp_path / "wheels").glob("*.whl"), cwd=tmp_path)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    lab = try_out(python, folder)
    assert "--architectures" in run(lab, "compare", "--help", cwd=folder)
    assert "linear_rnn: keeps every law" in run(lab, "check", "linear_rnn", cwd=folder)
    run(lab, "new-architecture", "mine", cwd=folder)
    runs(lab, "stranger", "echo", folder)
    small = ("--budget", "2e6", "--dim", 8, "--depth", 1, "--batch", 2, "--seeds", 1, "--workers", 1, "--tasks", "echo")
    run(lab, "compare", "--architectures", "stranger", *small, cwd=folder)
    assert list(folder.glob("results/compare/*.html"))
    packages = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    for kind in ("architectures", "tasks", "lab"):
        for file in (source / kind).rglob("*"):
            if file.is_file() and file.parent.name != "__pycache__":
                assert (packages / file.relative_to(source)).is_file(), file
