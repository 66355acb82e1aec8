"""The `jaxcifar` command: runs each of the package's command lines as a sub-command.

`jaxcifar NAME ...` runs the same module as `python -m`, with the same flags, in this process.
"""

import runpy
import sys
from typing import NamedTuple

from jaxcifar import __version__
from jaxcifar.errors import unknown
from jaxcifar.resilience.closed_output import quiet_if_closed


class Command(NamedTuple):
    """A sub-command.

    Attributes:
      module: module that is run as `__main__`.
      help: one line for `jaxcifar --help`.
      mode: value of the `--mode` flag that the sub-command stands for, if any.
      argument: flag that a first argument without a name sets, if any.
    """

    module: str
    help: str
    mode: str | None = None
    argument: str | None = None


COMMANDS = {
    "train": Command("jaxcifar.main", "Train a recipe, or resume its run."),
    "eval": Command(
        "jaxcifar.main", "Evaluate a run on its test images, or on others.", "eval", "workdir"
    ),
    "reproduce": Command(
        "jaxcifar.main", "Repeat a finished run and compare every bit.", "reproduce", "workdir"
    ),
    "sweep": Command("jaxcifar.tools.sweep", "Train the variants or seeds of a recipe."),
    "search": Command("jaxcifar.tools.search", "Search for good values of fields with Optuna."),
    "find-lr": Command("jaxcifar.tools.find_lr", "Find a learning rate by a range test."),
    "watch": Command("jaxcifar.tools.watch", "Show all runs in a directory while they run."),
    "report": Command("jaxcifar.tools.report", "Compare runs in a table, or with pictures."),
    "explore": Command("jaxcifar.tools.explore", "Look at filters, a network or a data set."),
    "predict": Command("jaxcifar.tools.predict", "Predict the classes of images."),
    "export": Command("jaxcifar.tools.export", "Export a trained network to other formats."),
    "card": Command("jaxcifar.tools.card", "Write a model card, with all that can be measured."),
    "import": Command(
        "jaxcifar.tools.import_weights", "Start from weights of PyTorch, or of another run."
    ),
    "show": Command("jaxcifar.tools.show", "Draw the augmented images that a network is fed."),
    "models": Command("jaxcifar.tools.models", "List the networks, or the layers of one."),
    "fields": Command("jaxcifar.tools.fields", "List or search the config fields."),
}

_USAGE = """\
Trains and evaluates the classic CIFAR networks.

usage: jaxcifar COMMAND [FLAGS]

{commands}

jaxcifar COMMAND --help    describes a command and its flags
jaxcifar --version         prints the version

An example to start with, which needs no data:

    jaxcifar train --config configs/quickstart.py
"""


def main() -> None:
    """Runs the sub-command that the command line names; does not return."""
    with quiet_if_closed():
        _run(sys.argv[1:])


def _run(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "-help", "--help", "help"):
        print(usage(), end="")
        sys.exit(0)
    if arguments[0] == "--version":
        print(f"jaxcifar {__version__}")
        sys.exit(0)
    name, *rest = arguments
    if name not in COMMANDS:
        sys.exit(f"error: {unknown('command', name, COMMANDS)}\n(run jaxcifar --help for usage)")
    command = COMMANDS[name]
    if command.argument and rest and not rest[0].startswith("-"):
        rest[0] = f"--{command.argument}={rest[0]}"
    if command.mode:
        if any(argument.lstrip("-").split("=")[0] == "mode" for argument in rest):
            sys.exit(f"error: jaxcifar {name} takes no --mode")
        rest.append(f"--mode={command.mode}")
    sys.argv = [sys.argv[0], *rest]
    # As `python -m` does, so that absl takes the module's flags for those of the program.
    runpy.run_module(command.module, run_name="__main__", alter_sys=True)


def usage() -> str:
    """Returns the help page of the whole program."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return _USAGE.format(commands="\n".join(lines))


if __name__ == "__main__":
    main()
