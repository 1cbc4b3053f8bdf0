"""What reaches a terminal is text: a name from a plug-in, a record or a file cannot move the cursor, colour or hide a line."""

from typing import Any


def printable(text: str) -> str:
    """The text with all that is no visible character, but for the ends of lines and tabs, as its escape: `\\x1b[31m`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


class Plain:
    """A stream to which only visible characters are written, those that its encoding lacks as escapes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return self.stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
