"""Trains or evaluates a recipe, or runs a finished run again.

    python -m jaxcifar.main --config configs/resnet56.py
    python -m jaxcifar.main --config configs/resnet56.py --config.train.seed=1 --workdir runs/seed1
    python -m jaxcifar.main --config configs/resnet56.py:0.1        # a tenth of its length
    python -m jaxcifar.main --config configs/resnet56.py --mode eval
    python -m jaxcifar.main --workdir runs/seed1 --mode reproduce

Run again with the same workdir it goes on from its last checkpoint. Any field of the config can be
set on the command line; `jaxcifar fields` lists them.
"""

import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxcifar.config.variants import length_factor
from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept [runs/<config name>].")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "reproduce"], "What to do.")
_OUT = flags.DEFINE_string("out", None, "Of --mode reproduce [<workdir>/reproduction].")
_ACCEPT = flags.DEFINE_bool("accept_config_change", False, "Go on in a run of another config.")


def main() -> None:
    """Does what the flags say."""
    from jaxcifar.evaluate import evaluate_run  # not before --help is answered
    from jaxcifar.train import train

    if _MODE.value == "reproduce":
        return _reproduce()
    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, as configs/resnet20.py")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.replace(".py", "")
    workdir = _WORKDIR.value or "runs/" + re.sub(r"[^\w.-]+", "_", name)
    workdir = cli.run_directory("workdir", workdir)
    if _MODE.value == "eval":
        evaluate_run(_CONFIG.value, workdir)
    else:
        recipe = config_flags.get_config_filename(flags.FLAGS["config"])
        if (factor := length_factor(recipe.partition(":")[2])) != 1:
            print(f"{factor:g} of the recipe's length", flush=True)
        train(_CONFIG.value, workdir, accept_config_change=_ACCEPT.value)


def _reproduce() -> None:
    from jaxcifar.tools.reproduce import reproduce

    if _CONFIG.value or not _WORKDIR.value:
        raise InputError("--mode reproduce takes --workdir and no --config, which the run has")
    workdir = Path(_WORKDIR.value)
    out = cli.run_directory("out", _OUT.value or str(workdir / "reproduction"))
    if not reproduce(workdir, out):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, __doc__)
