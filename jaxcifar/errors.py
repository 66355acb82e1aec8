"""Errors that are shown to the user without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid user input. The message names the offending value and the allowed ones."""


class StoppedError(Exception):
    """A run ended before its last step and can be resumed.

    Attributes:
      code: exit code of the process.
      at_once: whether the process must exit without waiting for its threads or for other
        processes, because one of them hangs.
    """

    def __init__(self, message: str, code: int = 1, at_once: bool = False):
        super().__init__(message)
        self.code, self.at_once = code, at_once


def describe(error: InputError | OSError) -> str:
    """Returns the message that the user sees for an error."""
    if isinstance(error, InputError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a misspelt `name`, suggesting similar names and listing all of them.

    Args:
      kind: kind of thing that is named, for example "model".
      name: name that was given.
      known: names that exist.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.8)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")
