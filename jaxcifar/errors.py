"""The errors that are shown to a user without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used; the message names it and says what is allowed."""


class StoppedError(Exception):
    """A run ended before its last step, and may go on.

    Attributes:
      code: the exit code of the process.
      at_once: the process must not wait for its threads or other processes, as one of them hangs.
    """

    def __init__(self, message: str, code: int = 1, at_once: bool = False):
        super().__init__(message)
        self.code, self.at_once = code, at_once


def describe(error: InputError | OSError) -> str:
    """Returns what a user is told of an error."""
    if isinstance(error, InputError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a misspelt `name`, with the names near it and all that are known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.8)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")
