"""Trains or evaluates a recipe.

    python -m jaxcifar.main --config configs/resnet56.py
    python -m jaxcifar.main --config configs/resnet56.py --config.train.seed=1 --workdir runs/seed1
    python -m jaxcifar.main --config configs/resnet56.py --mode eval

Run again with the same workdir it goes on from its last checkpoint. Any field of the config can be
set on the command line; jaxcifar/config.py has them all, with what they mean.
"""

import re
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jaxcifar.config import check_field
from jaxcifar.errors import InputError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept [runs/<config name>].")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
_ACCEPT = flags.DEFINE_bool("accept_config_change", False, "Go on in a run of another config.")
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
flags.mark_flag_as_required("config")


def parse(argv: list[str]) -> list[str]:
    """Reads the flags and the recipe; prints help, or what is wrong in one screen."""
    if {"-h", "-help", "--help"} & set(argv):
        print(__doc__ + flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        for field in re.findall(r"^--?config\.([\w.]+)", "\n".join(argv), re.MULTILINE):
            check_field(field)
        if rest := flags.FLAGS(argv)[1:]:
            raise InputError(f"unexpected argument {rest[0]!r}")
        if flags.FLAGS["verbosity"].using_default_value:
            flags.FLAGS.verbosity = -1  # warnings alone, or absl shows all that Orbax logs
        _CONFIG.value.lock()  # raises if the recipe could not be read
    except Exception as error:  # a recipe may raise anything
        if "--debug" in argv:
            raise
        sys.exit(f"error: {error}\n(--help: usage; --debug: where it comes from)")
    return argv[:1]


def main(_: list[str]) -> None:
    """Does what the flags say."""
    from jaxcifar.evaluate import evaluate_run  # not before --help is answered
    from jaxcifar.train import train

    config = _CONFIG.value
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.replace(".py", "")
    workdir = Path(_WORKDIR.value or "runs/" + re.sub(r"[^\w.-]+", "_", name))
    try:
        if _MODE.value == "eval":
            evaluate_run(config, workdir)
        else:
            train(config, workdir, accept_config_change=_ACCEPT.value)
    except InputError as error:
        if _DEBUG.value:
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
