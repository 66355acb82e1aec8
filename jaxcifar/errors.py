"""The errors that are shown to a user without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave cannot be used; the message names it and says what is allowed."""


class StoppedError(Exception):
    """A run ended before its last step, and may go on.

    Attributes:
      code: the exit code of the process.
      at_once: a thread hangs, so that the process must not wait for its threads.
    """

    def __init__(self, message: str, code: int = 1, at_once: bool = False):
        super().__init__(message)
        self.code, self.at_once = code, at_once


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a misspelt `name`, with the names near it and all that are known."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.8)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")
