"""What the README tells people to do works as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.timeout(900)
README = (ROOT / "README.md").read_text("utf-8")


def test_the_example_architecture_checks_and_compares(tmp_path):
    example = re.search(r"```python\n(.*?)```", README, re.S)[1]
    subprocess.run([sys.executable, "-m", "lab", "new-architecture", "my_arch"], cwd=tmp_path, check=True)
    assert (tmp_path / "my_arch.py").read_text("utf-8") == example
    check, compare = re.search(r"```\n(lab check my_arch.*?)\n(lab compare.*?)\n```", README, re.S).groups()
    small = f"{compare} --size 5k --seeds 1 --workers 1 --results r".replace("--budget 1e11", "--budget 3e8")
    for command in (check, small):
        done = subprocess.run([sys.executable, "-m", *command.split()], cwd=tmp_path, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "my_arch" in done.stdout
    assert "chance" in done.stdout
    assert list(tmp_path.glob("r/compare/*.html"))
    assert list(tmp_path.glob("r/compare/figures/*.svg"))


def test_every_link_and_flag_of_the_readme_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    help_text = "".join(
        subprocess.run([sys.executable, "-m", "lab", name, "--help"], capture_output=True, text=True, check=True).stdout
        for name in ("compare", "run", "check", "bench", "show", "prepare", "verify", "doctor", "generate", "frontier", "study")
    )
    for flag in set(re.findall(r"`(--[a-z]+)", README)):
        assert flag in help_text, flag
