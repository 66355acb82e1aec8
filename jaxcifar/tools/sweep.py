"""Trains the variants of a recipe: ablations, grids, random searches, seeds.

    jaxcifar sweep --config configs/ablations.py --list
    jaxcifar sweep --config configs/ablations.py --dry_run
    jaxcifar sweep --config configs/ablations.py --only baseline,cosine --seeds 0,1,2
    jaxcifar sweep --config configs/resnet20.py --seeds 0..7 --jobs 2
    jaxcifar sweep --config configs/resnet20.py --seeds 0..7 --vmap 8
    jaxcifar sweep --config configs/ablations.py --shard 3/16
    jaxcifar sweep --config configs/ablations.py --launcher slurm --slurm partition=gpu

The variants are what `get_sweep()` in the recipe file returns: either a dictionary from names to
dictionaries of fields and values, or an iterable of such dictionaries, e.g. scikit-learn's
ParameterGrid or ParameterSampler. A recipe without `get_sweep` has a single variant, itself. Each
variant is trained by `jaxcifar.main` in a separate process and workdir. Rerunning the command
resumes the sweep: finished runs are not repeated. A failed run does not stop the others. The sweep
ends with the table of `jaxcifar report`.

--jobs trains several at a time, with the cores or GPUs divided among them. Several sweeps may
share a workdir, on one machine or on a file system that machines share: no run is trained twice,
and runs of a sweep that has died are taken over. --shard i/n trains every n-th run; --shard n takes
the index from SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX. --launcher slurm submits an array of
jobs (needs the extra "slurm").

--vmap 8 trains up to 8 runs at once in one compiled program, if they differ in nothing but numbers:
the seed, learning rates and schedules, weight decay, momentum, label smoothing, strengths of
augmentation and mixing. Others are trained one by one. --vmap auto takes as many as the memory
holds.

--halving 3 trains all runs for a part of their length, keeps the third with the best validation
accuracy, resumes these for three times as long, and so on; the others are marked as pruned.

Fields that no variant sets can be set on the command line, for all variants.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe file, e.g. configs/ablations.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Parent directory of the runs [runs/<config name>_sweep]."
)
_ONLY = flags.DEFINE_list("only", None, "Names of the variants to train [all].")
_SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds to train each variant with, e.g. 0,1,2 or 0..7 [the recipe's]."
)
_LIST = flags.DEFINE_bool("list", False, "Print the variants and their fields.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands without running them.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Number of runs at a time.", lower_bound=1)
_VMAP = flags.DEFINE_string(
    "vmap", "1", "Number of runs to train at once in one compiled program, or auto."
)
_SHARD = flags.DEFINE_string("shard", None, "Train every n-th run, from the i-th on: i/n, or n.")
_HALVING = flags.DEFINE_integer(
    "halving",
    0,
    "Successive halving: at each stage keep 1 in N runs, and train it N times as long.",
)
_LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where to train.")
_SLURM = flags.DEFINE_list("slurm", [], "Options of the jobs, e.g. partition=gpu,gpus_per_node=1.")


def main() -> None:
    """Trains the variants that the flags select."""
    from jaxcifar.launch import local, together, trials  # slow to import; --help does not need it
    from jaxcifar.resilience import manifest

    at_once = _at_once()
    recipe = _recipe()
    if _LIST.value:
        return _print_variants(trials.variants(recipe.split(":")[0]))
    given = config_flags.get_override_values(flags.FLAGS["config"])
    workdir = _workdir()
    runs = trials.trials(
        recipe,
        _CONFIG.value,
        workdir,
        only=_ONLY.value or (),
        seeds=[number for text in _SEEDS.value or () for number in _numbers(text)],
        given=given,
    )
    if _SHARD.value:
        runs = trials.shard(runs, _SHARD.value)
    for run in runs:
        manifest.check_config(run.workdir, run.config)
    if _DRY_RUN.value:
        for run in runs:
            print(shlex.join(["python", *run.command[1:]]))
        return
    if _LAUNCHER.value == "slurm":
        return _submit(runs, workdir)
    if _SLURM.value:
        raise InputError("--slurm: only with --launcher=slurm")
    if _HALVING.value:
        failed = _halve(runs, recipe)
    elif at_once == 1:
        failed = local.train_all(runs, _JOBS.value)
    else:
        failed = together.train_all(runs, at_once)
    if runs:
        subprocess.run([sys.executable, "-m", "jaxcifar.tools.report", str(workdir)])
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}\n"
            "Rerun the same command to resume or restart them."
        )


def _halve(runs: list, recipe: str) -> list[str]:
    from jaxcifar.config import durations
    from jaxcifar.data import datasets
    from jaxcifar.launch import halving, local, supervised

    if _JOBS.value > 1 or _SHARD.value:
        raise InputError("--halving: not with --jobs or --shard, as it compares all runs")
    for run in runs:
        supervised.check_judged(recipe, run.config.dataset.validation_size)

    def length(run: Any) -> float:
        dataset = run.config.dataset
        size = datasets.info(dataset).train_size - dataset.validation_size
        plan = durations(run.config, size)
        return plan.num_steps / plan.steps_per_epoch

    with local.forwarding(list) as received:
        return halving.train_all(
            runs, _HALVING.value, length, lambda: received[0] if received else 0
        )


def _submit(runs: list, workdir: Path) -> None:
    from jaxcifar.launch import slurm

    if _JOBS.value > 1:
        raise InputError("--jobs: not with --launcher=slurm, where each run is a job of its own")
    options = {}
    for text in _SLURM.value:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise InputError(f"--slurm: {text!r} is not a name with a value, e.g. partition=gpu")
        options[name.strip()] = value.strip()
    jobs = slurm.submit(runs, workdir / "submitit", options)
    for run, job in zip(runs, jobs, strict=True):
        print(f"job {job.job_id}: {run.workdir}")
    print(f"logs are in {workdir / 'submitit'}; look with: jaxcifar watch {workdir}")


def _recipe() -> str:
    """The value of --config."""
    if _CONFIG.value is None:
        raise InputError("--config must name a recipe, e.g. --config=configs/ablations.py")
    return config_flags.get_config_filename(flags.FLAGS["config"])


def _at_once() -> int:
    """The value of --vmap; 0 for auto."""
    text = _VMAP.value.strip()
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise InputError(f"--vmap={text}: must be a number of runs, at least 1, or auto")
    at_once = 0 if text == "auto" else int(text)
    if at_once != 1 and (_JOBS.value > 1 or _HALVING.value or _LAUNCHER.value != "local"):
        raise InputError("--vmap: not with --jobs, --halving or --launcher=slurm")
    return at_once


def _print_variants(found: dict) -> None:
    width = max(map(len, found))
    for name, fields in found.items():
        values = ", ".join(f"{field}={value}" for field, value in fields.items())
        print(f"{name:{width}}  {values or 'the recipe itself'}".lstrip())


def _numbers(text: str) -> range:
    """The seeds of one entry of --seeds: "3", or "0..7", both ends included."""
    if not (found := re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", text)):
        raise InputError(
            f"--seeds: {text!r} is not a non-negative integer; expected e.g. 0,1,2 or 0..7"
        )
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise InputError(f"--seeds: {text!r}: the last seed is before the first")
    return range(first, last + 1)


def _workdir() -> Path:
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.replace(".py", "")
    name = re.sub(r"[^\w.-]+", "_", name)
    return cli.run_directory("workdir", _WORKDIR.value or f"runs/{name}_sweep")


if __name__ == "__main__":
    cli.run(main, __doc__)
