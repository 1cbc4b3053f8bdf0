"""docs/when-things-go-wrong.md has every message there is, every exit code, and none that is gone.

python tests/test_messages.py    prints the messages by file, as the page writes them: what varies is an ellipsis.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "when-things-go-wrong.md"
GIVEN = {
    "UsageError",
    "BudgetError",
    "ValueError",
    "TypeError",
    "LengthError",
    "Leak",
    "Diverged",
    "NotImplementedError",
    "Unreadable",
}
TOLD = {"warnings.warn", "_fail"}


def pattern(node: ast.expr) -> str:
    """The text of a message with an ellipsis for what varies; empty where all of it does."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(pattern(part) or "…" for part in node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return re.sub("…+", "…", (pattern(node.left) or "…") + (pattern(node.right) or "…"))
    return ""


def messages(file: Path) -> Iterator[str]:
    """Those of a file, in its order."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        call = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(call, ast.Call) and call.args:
            raised = isinstance(node, ast.Raise) and ast.unparse(call.func) in GIVEN
            if (raised or ast.unparse(call.func) in TOLD) and (found := pattern(call.args[0])).strip("… "):
                yield " ".join(found.split())


def everything() -> dict[Path, list[str]]:
    files = [file for folder in ("lab", "tasks", "architectures") for file in sorted((ROOT / folder).rglob("*.py"))]
    return {file: found for file in files if (found := list(dict.fromkeys(messages(file))))}


def test_every_message_is_on_the_page():
    told = set(re.findall(r"^- `(.*?)`$|^\| `(.*?)` \|", PAGE.read_text("utf-8"), re.M))
    told = {one or other for one, other in told}
    known = {message for found in everything().values() for message in found}
    assert len(known) > 150
    assert sorted(known - told) == [], "add these to docs/when-things-go-wrong.md; python tests/test_messages.py prints all"
    assert sorted(told - known - {f"{code}" for code in (0, 1, 2, 3, 75)}) == [], "no longer said by the lab"


def test_every_exit_code_is_on_the_page():
    page = PAGE.read_text("utf-8")
    for code in (0, 1, 2, 3, 75):
        assert f"| `{code}` |" in page
    assert "docs/when-things-go-wrong.md" in (ROOT / "README.md").read_text("utf-8")


if __name__ == "__main__":
    for file, found in everything().items():
        print(f"\n{file.relative_to(ROOT)}")
        print("\n".join(f"- `{message}`" for message in found))
