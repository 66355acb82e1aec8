"""Errors that are shown to the user without a traceback."""

import difflib
import re
from collections.abc import Iterable

# Exit code of a process that leaves a run to another one: EX_TEMPFAIL of sysexits.h.
IN_USE = 75


class InputError(ValueError):
    """Invalid user input. The message names the offending value and the allowed ones."""


class InUseError(InputError):
    """Another process writes to the directory of a run."""


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

    Suggestions ignore case, spaces, dashes and underscores.

    Args:
      kind: kind of thing that is named, for example "model".
      name: name that was given.
      known: names that exist.
    """
    known = list(known)
    wanted, *plain = [re.sub(r"[-_\s]", "", option.lower()) for option in (name, *known)]
    close = [wanted] if wanted in plain else difflib.get_close_matches(wanted, plain, 3, cutoff=0.8)
    near = [known[plain.index(option)] for option in close]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return InputError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}")
