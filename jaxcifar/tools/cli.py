"""What the command lines share: help without imports, and errors of one screen."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from jaxcifar import environment
from jaxcifar.config.structure import check_field
from jaxcifar.errors import InputError, StoppedError, describe

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
        except (InputError, OSError) as error:
            if _DEBUG.value:
                raise
            sys.exit(f"error: {describe(error)}")
        except KeyboardInterrupt:  # what trains handles it
            sys.exit(128 + signal.SIGINT)
        except StoppedError as error:
            if _DEBUG.value and error.__cause__:
                traceback.print_exception(error.__cause__)
            print(error, file=sys.stderr, flush=True)
            if error.at_once:
                os._exit(error.code)
            sys.exit(error.code)
        except RuntimeError as error:  # JAX's for a device without memory has no type of its own
            if _DEBUG.value or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sys.exit(
                f"error: the device has too little memory: {str(error).splitlines()[0]}\n"
                "A smaller train.batch_size or eval.batch_size, more train.accumulation_steps, "
                "train.precision = 'bfloat16' or, for a DenseNet, model.recompute may help."
            )

    environment.prepare()
    app.run(call, flags_parser=lambda argv: _parse(argv, doc))


def run_directory(flag: str, name: str) -> Path:
    """Returns the path that a flag names, which is a directory that can be written or made.

    Raises:
      InputError: if it cannot be one.
    """
    path = Path(name)
    if found := re.search(r"[\[\]\\]", str(path.resolve())):
        raise InputError(
            f"--{flag}={name}: Orbax cannot read what it writes where a directory's name has a "
            f"{found[0]}; choose another --{flag}"
        )
    existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise InputError(f"--{flag}={name}: {existing} is not a directory; choose another --{flag}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--{flag}={name}: {existing} cannot be written; choose another --{flag}")
    return path


def _parse(argv: list[str], doc: str) -> list[str]:
    if {"-h", "-help", "--help"} & set(argv):
        print(doc + flags.FLAGS.main_module_help() + "\n" + flags.FLAGS.module_help(__name__))
        sys.exit(0)
    logging.use_absl_handler()  # or it says that flags are not parsed yet
    try:
        for field in re.findall(r"^--?config\.([\w.]+)", "\n".join(argv), re.MULTILINE):
            check_field(field)
        if rest := flags.FLAGS(argv)[1:]:
            raise InputError(f"unexpected argument {rest[0]!r}")
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # warnings alone, or absl shows all that Orbax logs
        for name in flags.FLAGS:
            given = flags.FLAGS[name].present and not name.startswith("config")
            if given and flags.FLAGS[name].value == "":
                raise InputError(f"--{name} is empty")
        config = flags.FLAGS.config if "config" in flags.FLAGS else None
        if config is not None and not hasattr(config, "lock"):  # raises, if it could not be read
            raise TypeError(f"get_config returned a {type(config).__name__}, not a ConfigDict")
    except (Exception, SystemExit) as error:  # a recipe may raise anything
        # With another code it has said why, as absl's --helpfull has.
        if "--debug" in argv or (isinstance(error, SystemExit) and error.code):
            raise
        sys.exit(f"error: {_brief(error, argv)}\n(--help: usage; --debug: where it comes from)")
    return argv[:1]


def _brief(error: BaseException, argv: list[str]) -> str:
    """What an error says; of one from a recipe, whatever raised it, with the recipe's name."""
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if isinstance(error, SystemExit):
        text = "the recipe ended the process"
    if "\nTraceback" in text:  # quoted by ml_collections
        flag, reason = text.split(": ", 1)[0], text.splitlines()[-1]
        return f"{flag}: {reason.removeprefix('jaxcifar.errors.InputError: ')}"
    recipe = re.search(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    names_it = isinstance(error, flags.Error | InputError) or (recipe and recipe[1] in text.split())
    return f"--config={recipe[1]}: {text}" if recipe and not names_it else text
