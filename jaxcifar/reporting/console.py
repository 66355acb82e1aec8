"""What is printed in a terminal, beyond `print`."""

import sys

import rich.console


class Console(rich.console.Console):
    """A Rich console that treats a closed pipe as `print` does.

    It raises BrokenPipeError where output has no reader; Rich's own exits with code 1.
    """

    def on_broken_pipe(self) -> None:
        """Raises the error that Rich is handling."""
        raise


def printable(text: str) -> str:
    """Returns text with escapes for what a terminal cannot show, as in names of folders."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
