"""The rows of the tables of results: what is trained, with how many seeds, and where it is kept."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


class Row(NamedTuple):
    """Runs of one config that differ in their seed only.

    Attributes:
      title: what the table calls it.
      recipe: file in configs/.
      seeds: number of seeds, from 0, that the row is to have.
      fields: fields in which it differs from the recipe, e.g. {"train.num_epochs": 30.0}.
      variant: name of the variant if the recipe is a sweep.
      predictions: whether the predicted class of each test image is kept.
      examined: whether its confusion matrix, calibration and worst mistakes are shown.
    """

    title: str
    recipe: str
    seeds: int
    fields: Mapping[str, Any] = MappingProxyType({})
    variant: str = ""
    predictions: bool = True
    examined: bool = False

    def config(self, seed: int) -> ConfigDict:
        """Returns the config of the run with this seed."""
        config = runpy.run_path(str(self.recipe_path()))["get_config"]()
        for path, value in {**self.fields, "train.seed": seed}.items():
            section, field = path.split(".")
            config[section][field] = value
        return config

    def run_command(self, seed: int) -> str:
        """Returns the command line that trains one seed."""
        settings = {**self.fields, "train.seed": seed}
        flags = " ".join(f"--config.{path}={_quoted(value)}" for path, value in settings.items())
        return f"python -m jaxcifar.main --config configs/{self.recipe} {flags}"

    def command(self) -> str:
        """Returns the command line that trains all seeds."""
        only = f" --only {self.variant}" if self.variant else ""
        seeds = ",".join(map(str, range(self.seeds)))
        fields = {} if self.variant else self.fields
        flags = "".join(f" --config.{path}={_quoted(value)}" for path, value in fields.items())
        return f"jaxcifar sweep --config configs/{self.recipe}{only} --seeds {seeds}{flags}"

    def recipe_path(self) -> Path:
        """Returns the path of the recipe file."""
        return ROOT / "configs" / self.recipe


class Sweep(NamedTuple):
    """Variants of a recipe that are compared with the first of them.

    Attributes:
      recipe: file in configs/, which has `get_sweep`.
      seeds: number of seeds that each variant is to have.
      baseline: the row that has the runs of the first variant, if it is not a row of its own.
    """

    recipe: str
    seeds: int
    baseline: str = ""

    def rows(self) -> dict[str, Row]:
        """Returns the row of each variant, by the name of its directory."""
        variants = runpy.run_path(str(ROOT / "configs" / self.recipe))["get_sweep"]()
        names = {variant: f"{Path(self.recipe).stem}/{variant}" for variant in variants}
        if self.baseline:
            names[next(iter(variants))] = self.baseline
        return {
            names[variant]: Row(
                variant.replace("_", " "), self.recipe, self.seeds, fields, variant, False
            )
            for variant, fields in variants.items()
        }


# By the name of the directory in results/, in the order of the tables.
ROWS = {
    "speedrun94": Row("speedrun, 94 %", "speedrun94.py", 10),
    "speedrun95": Row("speedrun, 95 %", "speedrun95.py", 3),
    "speedrun96": Row("speedrun, 96 %", "speedrun96.py", 1),
    "speedrun_cifar100": Row("speedrun, CIFAR-100", "speedrun_cifar100.py", 1),
    "resnet20": Row("ResNet-20", "resnet20.py", 3),
    "resnet56": Row("ResNet-56", "resnet56.py", 1, examined=True),
    "resnet18_30_epochs": Row("ResNet-18, 30 epochs", "resnet18.py", 1, {"train.num_epochs": 30.0}),
}
SWEEPS = {
    "speedrun_ingredients": Sweep("speedrun_ingredients.py", 3, baseline="speedrun94"),
    "ternary_resnet20": Sweep("ternary_resnet20.py", 3),
    "ablations_resnet20": Sweep("ablations_resnet20.py", 3),
}


def all_rows() -> dict[str, Row]:
    """Returns the rows of all tables, by the name of their directory."""
    variants = {name: row for sweep in SWEEPS.values() for name, row in sweep.rows().items()}
    return variants | ROWS


def labels_path(dataset: str) -> Path:
    """Returns the path of the labels of a data set's test images."""
    return RESULTS / f"{dataset}_test_labels.bin"


def _quoted(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if set(text) & set("()' ") else text
