"""What SECURITY.md says of the code is so."""

import ast
import subprocess
import sys
from pathlib import Path

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


def test_a_run_opens_no_socket_to_a_network(tmp_path):
    command = ["run", "--architecture", "linear_rnn", "--task", "recall", "--budget", "1e8", "--dim", "8"]
    code = f"""if True:
        import sys
        def watch(event, arguments):
            if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto"):
                print("NETWORK", event, arguments, file=sys.stderr, flush=True)
        sys.addaudithook(watch)
        from lab.cli import main
        main({[*command, "--depth", "1", "--results", str(tmp_path)]!r})
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
