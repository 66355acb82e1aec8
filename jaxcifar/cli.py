"""What the command lines share: help without imports, and errors of one screen."""

import os
import re
import sys
from collections.abc import Callable

from absl import app, flags

from jaxcifar import runtime
from jaxcifar.errors import InputError, StoppedError
from jaxcifar.validation import check_field

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def run(main: Callable[[], None], doc: str) -> None:
    """Prepares the process, reads the flags and the recipe, if any, and calls `main`; no return.

    Args:
      main: does what the flags say.
      doc: the help, above the flags.
    """

    def call(_: list[str]) -> None:
        try:
            main()
        except InputError as error:
            if _DEBUG.value:
                raise
            sys.exit(f"error: {error}")
        except StoppedError as error:
            print(error, file=sys.stderr, flush=True)
            if error.at_once:
                os._exit(error.code)
            sys.exit(error.code)

    runtime.prepare()
    app.run(call, flags_parser=lambda argv: _parse(argv, doc))


def _parse(argv: list[str], doc: str) -> list[str]:
    if {"-h", "-help", "--help"} & set(argv):
        print(doc + flags.FLAGS.main_module_help() + "\n" + flags.FLAGS.module_help(__name__))
        sys.exit(0)
    try:
        for field in re.findall(r"^--?config\.([\w.]+)", "\n".join(argv), re.MULTILINE):
            check_field(field)
        if rest := flags.FLAGS(argv)[1:]:
            raise InputError(f"unexpected argument {rest[0]!r}")
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # warnings alone, or absl shows all that Orbax logs
        if flags.FLAGS.config is not None:
            flags.FLAGS.config.lock()  # raises if the recipe could not be read
    except Exception as error:  # a recipe may raise anything
        if "--debug" in argv:
            raise
        sys.exit(f"error: {_brief(error)}\n(--help: usage; --debug: where it comes from)")
    return argv[:1]


def _brief(error: Exception) -> str:
    """An error's text; of a recipe's, in which ml_collections quotes a traceback, what it says."""
    text = str(error).strip()
    if "\nTraceback" not in text:
        return text
    flag, reason = text.split(": ", 1)[0], text.splitlines()[-1]
    return f"{flag}: {reason.removeprefix('jaxcifar.errors.InputError: ')}"
