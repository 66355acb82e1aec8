"""Shared command-line code: fast --help and one-screen error messages."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from jaxcifar import environment
from jaxcifar.config.structure import check_field, expected
from jaxcifar.errors import IN_USE, InputError, InUseError, StoppedError, describe
from jaxcifar.regular_files import check_regular
from jaxcifar.resilience.closed_output import is_closed, mute_closed, quiet_if_closed

_HINT = "(run with --help for usage, --debug for a traceback)"
_DEBUG = flags.DEFINE_bool("debug", False, "Show the full traceback of an error.")


def run(main: Callable[..., None], doc: str, *, takes_arguments: bool = False) -> None:
    """Prepares the process, parses the flags and the recipe, calls `main` and exits.

    Args:
      main: function to run once the flags are parsed.
      doc: help text to print above the list of flags.
      takes_arguments: whether `main` is called with a list of the arguments that are no flags;
        otherwise these are errors.
    """

    def call(argv: list[str]) -> None:
        try:
            main(*([argv[1:]] if takes_arguments else []))
        except (InputError, OSError) as error:
            if _DEBUG.value or (isinstance(error, BrokenPipeError) and is_closed(1)):
                raise
            if isinstance(error, InUseError):  # whoever started this process can tell
                print(f"error: {describe(error)}", file=sys.stderr)
                sys.exit(IN_USE)
            sys.exit(f"error: {describe(error)}")
        except KeyboardInterrupt:  # training handles it itself
            sys.exit(128 + signal.SIGINT)
        except StoppedError as error:
            if _DEBUG.value and error.__cause__:
                traceback.print_exception(error.__cause__)
            mute_closed()  # or printing could fail, and the process wait for its threads
            print(error, file=sys.stderr, flush=True)
            if error.at_once:
                os._exit(error.code)
            sys.exit(error.code)
        except RuntimeError as error:  # JAX has no own type for running out of memory
            if _DEBUG.value or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            sys.exit(
                f"error: out of device memory: {str(error).splitlines()[0]}\n"
                "Try a smaller --config.train.batch_size or --config.eval.batch_size, a larger\n"
                "--config.train.accumulation_steps, --config.train.precision=bfloat16 or, for a "
                "DenseNet,\n--config.model.recompute=True."
            )

    with quiet_if_closed():
        environment.prepare()
        app.run(call, flags_parser=lambda argv: _parse(argv, doc, takes_arguments))


def run_directory(flag: str, name: str) -> Path:
    """Returns the path that a flag names, after checking that it is, or can become, writable.

    Args:
      flag: name of the flag, for error messages.
      name: value of the flag.

    Raises:
      InputError: if the path cannot be used as the directory of a run.
    """
    path = Path(name)
    if found := re.search(r"[\[\]\\]", str(path.resolve())):
        raise InputError(
            f"--{flag}={name}: Orbax cannot read back checkpoints from a path that contains "
            f"{found[0]!r}; choose another --{flag}"
        )
    if problem := _encoding_problem(path.resolve()):
        raise InputError(f"--{flag}={ascii(name)[1:-1]}: {problem} choose another --{flag}")
    existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise InputError(f"--{flag}={name}: {existing} is not a directory; choose another --{flag}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--{flag}={name}: {existing} is not writable; choose another --{flag}")
    return path


def _encoding_problem(path: Path) -> str:
    """Why Orbax, which encodes paths as UTF-8, would take another path than Python; "" if not."""
    encoding = sys.getfilesystemencoding()
    try:
        if os.fsencode(path) == str(path).encode():
            return ""
    except UnicodeEncodeError:
        if encoding == "utf-8":
            return "it is not valid UTF-8, as Orbax needs it;"
    return (
        f"Orbax needs a UTF-8 locale for letters outside ASCII, and the encoding is {encoding}: "
        "set PYTHONUTF8=1, or"
    )


def hide_orbax_log() -> None:
    """Drops what Orbax logs: mostly the exceptions that it raises, with a traceback per thread."""
    logging.get_absl_logger().addFilter(lambda log: "/orbax/checkpoint/" not in log.pathname)


def _parse(argv: list[str], doc: str, takes_arguments: bool) -> list[str]:
    if {"-h", "-help", "--help"} & set(argv):
        print(doc + flags.FLAGS.main_module_help() + "\n" + flags.FLAGS.module_help(__name__))
        sys.exit(0)
    logging.use_absl_handler()  # otherwise absl warns that flags are not parsed yet
    try:
        for field in re.findall(r"^--?(?:no)?config\.([\w.-]+)", "\n".join(argv), re.MULTILINE):
            check_field(field)
        for recipe in _recipes(argv):
            check_regular(recipe.partition(":")[0])
        rest = flags.FLAGS(argv)[1:]
        if rest and not takes_arguments:
            raise InputError(f"unexpected argument {rest[0]!r}")
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # Orbax logs a great deal below that
            if not _DEBUG.value:
                hide_orbax_log()
        for name in flags.FLAGS:
            given = flags.FLAGS[name].present and not name.startswith("config")
            if given and flags.FLAGS[name].value == "":
                raise InputError(f"--{name} is empty")
        config = flags.FLAGS.config if "config" in flags.FLAGS else None
        if config is not None and not hasattr(
            config, "lock"
        ):  # reading it raises if the recipe failed
            raise TypeError(f"get_config returned a {type(config).__name__}, not a ConfigDict")
    except (Exception, SystemExit) as error:  # a recipe may raise anything
        # With a non-zero code the reason has been printed already, as by absl's --helpfull.
        if "--debug" in argv or (isinstance(error, SystemExit) and error.code):
            raise
        sys.exit(f"error: {_brief(error, argv)}\n{_HINT}")
    return [argv[0], *rest]


def _brief(error: BaseException, argv: list[str]) -> str:
    """The message of an error, prefixed with the recipe's name if it arose there."""
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if isinstance(error, SystemExit):
        text = "the recipe exited"
    if "\nTraceback" in text:  # quoted by ml_collections
        flag, reason = text.split(": ", 1)[0], text.splitlines()[-1]
        return f"{flag}: {reason.removeprefix('jaxcifar.errors.InputError: ')}"
    if isinstance(error, flags.IllegalFlagValueError):
        text = _wrong_type(text) or text
    recipes = _recipes(argv)
    names_it = isinstance(error, flags.Error | InputError) or set(recipes) & set(text.split())
    return f"--config={recipes[0]}: {text}" if recipes and not names_it else text


def _recipes(argv: list[str]) -> list[str]:
    """The values of --config."""
    return re.findall(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)


def _wrong_type(text: str) -> str | None:
    """Rewords absl's message about a value that is not a boolean, a number or a tuple."""
    found = re.fullmatch(r"flag --([\w.]+)=(.*?): (.*)", text, re.DOTALL)
    if not found or not re.search("Non-boolean|invalid lit|could not conv|while pars", found[3]):
        return None
    name, value, _ = found.groups()
    kinds = {"bool": "True or False", "int": "a whole number", "float": "a number"}
    field = name.removeprefix("config.")
    wanted = kinds[flags.FLAGS[name].flag_type()] if field == name else expected(field)
    return f"--{name}={value}: must be {wanted}"
