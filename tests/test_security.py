"""What SECURITY.md says of the code is so."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [file for folder in ("lab", "tasks", "architectures") for file in sorted((ROOT / folder).rglob("*.py"))]
NETWORK = {"socket", "socketserver", "http", "urllib", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "xmlrpc"}
UNSAFE = {"pickle", "marshal", "shelve", "joblib", "dill", "yaml", "tarfile", "zipfile"}
KNOWN = {ROOT / "lab" / "analysis" / "canvas.py", ROOT / "lab" / "dcp.py"}
"""One copies a figure of its own; the other reads a list of shards and admits nothing but the classes that describe tensors."""


def modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_no_file_speaks_to_a_network_or_reads_a_format_that_can_run_code():
    for file in FILES:
        found = set(modules(ast.parse(file.read_text("utf-8"))))
        assert not found & NETWORK, file
        assert not found & UNSAFE or file in KNOWN, file


def test_no_call_evaluates_text_or_loads_objects():
    loads = 0
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in {"eval", "exec", "os.system", "os.popen"}, file
            assert given.get("shell", "False") == "False", file
            assert given.get("allow_pickle", "False") == "False", file
            if name == "torch.load":
                loads += 1
                assert given["weights_only"] == "True", file
    assert loads


@pytest.mark.parametrize(
    "command", [["run", "--architecture", "linear_rnn"], ["compare", "--architectures", "linear_rnn", "lstm"]]
)
def test_no_process_of_the_lab_listens_or_asks_a_network(command, tmp_path):
    """Every process, workers too, starts with a hook that writes down what it asks of sockets."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(f"""if True:
        import sys
        def watch(event, arguments):
            if event in ("socket.connect", "socket.bind", "socket.listen", "socket.getaddrinfo", "socket.sendto"):
                with open({str(seen)!r}, "a") as file: file.write(f"{{event}} {{arguments}}\\n")
        sys.addaudithook(watch)
        with open({str(seen)!r}, "a") as file: file.write("hooked\\n")
    """)
    tasks = ["--task" if command[0] == "run" else "--tasks", "recall"]
    small = ["--budget", "1e8", "--dim", "8", "--depth", "1", "--results", str(tmp_path / "results")]
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "lab", *command, *tasks, *small],
        capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = seen.read_text().splitlines()
    assert lines.count("hooked") >= (1 if command[0] == "run" else 3)
    assert set(lines) == {"hooked"}
