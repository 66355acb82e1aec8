"""Trains runs that differ only in numbers by one program; `jaxcifar sweep --vmap` starts it.

    python -m jaxcifar.tools.train_many RUNS.json

RUNS.json has `at_once`, the number of runs at once or 0, and `runs`, each with `workdir` and
`config`. The exit code of each run is written to outcomes.json beside it.
"""

import json
import sys
from pathlib import Path

from jaxcifar.errors import InputError
from jaxcifar.tools import cli


def main(arguments: list[str]) -> None:
    """Trains the runs of the file that is named."""
    from jaxcifar.resilience import manifest  # slow to import; --help does not need it
    from jaxcifar.train_many import train_many

    if len(arguments) != 1:
        raise InputError("expected one argument, the file of the runs")
    path = Path(arguments[0])
    plan = json.loads(path.read_text())
    runs = [(manifest.saved_config(run), Path(run["workdir"])) for run in plan["runs"]]

    def say(line: str) -> None:
        print(line, flush=True)

    outcomes = train_many(runs, plan["at_once"], say)
    codes = {str(outcome.workdir): outcome.code for outcome in outcomes}
    path.with_name("outcomes.json").write_text(json.dumps(codes))
    for outcome in outcomes:
        if outcome.message:
            print(f"{outcome.workdir}: {outcome.message}", file=sys.stderr)
    sys.exit(max((outcome.code for outcome in outcomes), default=0))


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
