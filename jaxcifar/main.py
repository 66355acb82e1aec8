"""Trains or evaluates a recipe, or reproduces a finished run.

    python -m jaxcifar.main --config configs/resnet56.py
    python -m jaxcifar.main --config configs/resnet56.py --config.train.seed=1 --workdir runs/seed1
    python -m jaxcifar.main --config configs/resnet56.py:0.1        # a tenth of its length
    python -m jaxcifar.main --workdir runs/seed1 --mode eval        # --on photos/: other images
    python -m jaxcifar.main --workdir runs/seed1 --mode reproduce

Rerun with the same workdir, a run resumes from its last checkpoint. RECIPE.py:0.1 trains a recipe
for a tenth of its length, RECIPE.py:smoke for 20 steps on random images. Any field of the config
can be set on the command line; `jaxcifar fields` lists them. `jaxcifar train`, `jaxcifar eval` and
`jaxcifar reproduce` do the same.
"""

import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxcifar.config.variants import length_factor
from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/resnet20.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run [runs/<config name>].")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "reproduce"], "What to do.")
_OUT = flags.DEFINE_string("out", None, "Output of --mode reproduce [<workdir>/reproduction].")
_ON = flags.DEFINE_string("on", None, "Other images for --mode eval: a folder or .npz file.")
_ACCEPT = flags.DEFINE_bool("accept_config_change", False, "Resume with changed fields or kernels.")


def main() -> None:
    """Trains, evaluates or reproduces, as the flags say."""
    from jaxcifar.evaluate import evaluate_run  # slow to import; --help needs neither
    from jaxcifar.train import train

    if _MODE.value != "train" and _CONFIG.value is None and _WORKDIR.value:
        return _use_run(Path(_WORKDIR.value))
    if _MODE.value == "reproduce" or _ON.value:
        raise InputError("--mode reproduce and --on take --workdir and no --config: the run has it")
    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, e.g. --config=configs/resnet20.py")
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    default_workdir = "runs/" + re.sub(r"[^\w.-]+", "_", Path(recipe).name.replace(".py", ""))
    workdir = cli.run_directory("workdir", _WORKDIR.value or default_workdir)
    if _MODE.value == "eval":
        evaluate_run(_CONFIG.value, workdir)
    else:
        factor = length_factor(recipe.partition(":")[2])
        note = "" if factor == 1 else f"{factor:g} of the recipe's length"
        train(_CONFIG.value, workdir, accept_config_change=_ACCEPT.value, note=note)


def _use_run(workdir: Path) -> None:
    from jaxcifar.tools import evaluate_on, reproduce

    if _MODE.value == "eval":
        return evaluate_on.evaluate(workdir, _ON.value)
    out = cli.run_directory("out", _OUT.value or str(reproduce.default_out(workdir)))
    if not reproduce.reproduce(workdir, out):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, __doc__)
