"""Searches for good values of a recipe's fields with Optuna.

    jaxcifar search --config configs/search_resnet20.py --trials 30
    jaxcifar search --config configs/search_resnet20.py --trials 30 --storage postgresql://host/db

`get_study()` in the recipe file returns the space, the sampler (tpe, random or cmaes) and the
pruner (median, hyperband or none). Each trial is a run of its own, judged by `eval.best_metric` on
validation images, and stopped when the pruner says so; its manifest tells. Rerunning the command
resumes the search: interrupted trials resume from their checkpoints. The study is kept in
<workdir>/study.db, or in any database that Optuna can reach, so that several processes and machines
can work on one study. `jaxcifar report` shows the history and the importance of the fields. Needs
the extra "search".
"""

import re
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/search_resnet20.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Parent directory of the runs [runs/<config name>_search]."
)
_TRIALS = flags.DEFINE_integer("trials", 20, "Number of trials of the study.", lower_bound=1)
_STORAGE = flags.DEFINE_string(
    "storage", None, "URL of the database [sqlite:///<workdir>/study.db]."
)
_STUDY = flags.DEFINE_string("study", "search", "Name of the study in the database.")


def main() -> None:
    """Runs the trials that are left."""
    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, e.g. --config=configs/search_resnet20.py")
    from jaxcifar.launch import local, search_space, study, supervised  # slow to import

    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    space = search_space.read_space(recipe.split(":")[0])
    config = _CONFIG.value
    supervised.check_judged(recipe, config.dataset.validation_size)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    if both := space.fields.keys() & given.keys():
        raise InputError(f"--config.{min(both)}: the search sets this field itself")
    name = re.sub(r"[^\w.-]+", "_", Path(recipe).name.replace(".py", ""))
    parent = cli.run_directory("workdir", _WORKDIR.value or f"runs/{name}_search")
    parent.mkdir(parents=True, exist_ok=True)
    storage = _STORAGE.value or f"sqlite:///{parent.resolve()}/study.db"
    with (
        study.open_study(space, storage, _STUDY.value) as opened,
        local.forwarding(list) as received,
    ):
        search = study.Search(
            opened,
            space,
            recipe,
            config,
            parent,
            given,
            lambda: received[0] if received else 0,
        )
        search.run(_TRIALS.value)
        best = search.best()
    if best:
        number, score, fields = best
        shown = " ".join(f"--config.{field}={value}" for field, value in fields.items())
        print(f"best: trial {number}, {config.eval.best_metric} {abs(score):.4f}: {shown}")


if __name__ == "__main__":
    cli.run(main, __doc__)
