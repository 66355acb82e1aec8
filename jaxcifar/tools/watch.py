"""Shows all runs in a directory while they are trained.

    jaxcifar watch runs
    jaxcifar watch runs/sweep runs/resnet20 --once
    jaxcifar watch runs --html report.html

A line per run: progress, epoch, a sparkline of the training loss and its last value, the last
accuracy on validation or else test images, images/s and the time left. The display is refreshed
until Ctrl-C, or until all runs have finished. --html writes the report of `jaxcifar report` again
every minute, which a browser that shows it reads again by itself.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxcifar.errors import InputError
from jaxcifar.reporting import run_status
from jaxcifar.reporting.console import Console, printable
from jaxcifar.reporting.format import duration
from jaxcifar.reporting.run_status import Status
from jaxcifar.reporting.sparkline import sparkline
from jaxcifar.tools import cli

_INTERVAL = flags.DEFINE_float("interval", 2.0, "Seconds between looks.", lower_bound=0.1)
_HTML = flags.DEFINE_string("html", None, "HTML file to write the report to, every minute.")
_ONCE = flags.DEFINE_bool("once", False, "Look once, and end.")

_SPARKLINE, _BAR = 24, 16
_HTML_SECONDS = 60
_WIDTH = 140  # where there is no terminal


def main(arguments: list[str]) -> None:
    """Shows the runs in the directories that the arguments name."""
    roots = [Path(argument) for argument in arguments or ["runs"]]
    if not list(find_runs(roots)):
        raise InputError(f"{', '.join(map(str, roots))}: no runs (no directory with manifest.json)")
    html = Path(_HTML.value) if _HTML.value else None
    if html and html.suffix not in (".html", ".htm"):
        raise InputError(f"--html={html}: the file name must end in .html")
    console = Console(width=None if Console().is_terminal else _WIDTH)
    if _ONCE.value or not (console.is_terminal or html):
        console.print(_table(roots)[0])
        if html:
            write_report(roots, html, refreshed=False)
        return
    written = -math.inf
    with Live(console=console, auto_refresh=False) as live:
        while True:
            table, all_finished = _table(roots)
            live.update(table, refresh=True)
            if html and (all_finished or time.monotonic() - written >= _HTML_SECONDS):
                write_report(roots, html, refreshed=not all_finished)
                written = time.monotonic()
            if all_finished:
                return
            time.sleep(_INTERVAL.value)


def write_report(roots: list[Path], path: Path, *, refreshed: bool) -> None:
    """Writes the report of the runs that can be read, if there are any yet.

    Args:
      roots: directories of runs.
      path: the HTML file.
      refreshed: whether the browser reads it again every minute.

    Raises:
      InputError: if Plotly is not installed.
    """
    from jaxcifar.report import runs, search  # slow to import, and needed for this only
    from jaxcifar.report.build import build
    from jaxcifar.report.page import page
    from jaxcifar.resilience.files import write_text

    found, problems = runs.find(roots, required=False)
    if found:
        text = page(
            build(found, problems, search.find(roots)),
            refresh_seconds=_HTML_SECONDS if refreshed else 0,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def find_runs(roots: list[Path]) -> Iterator[Path]:
    """Yields the directories of runs, in alphabetical order below each root.

    Raises:
      InputError: if there is no such directory.
    """
    for root in roots:
        if not root.is_dir():
            raise InputError(f"{root}: no such directory")
        for manifest in sorted(root.rglob("manifest.json")):
            if "checkpoints" not in manifest.parts:
                yield manifest.parent


def _table(roots: list[Path]) -> tuple[Table, bool]:
    """The table of all runs, and whether all of them have finished."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "", "progress", "epoch", "loss", "", "accuracy", "images/s", "left"):
        table.add_column(title, no_wrap=True, justify="right" if title == "images/s" else "left")
    states = []
    for workdir in find_runs(roots):
        name = Text(printable(_name(workdir, roots)))
        try:
            status = run_status.read(workdir)
        except (ValueError, KeyError, TypeError, OSError) as error:  # half-written, or of no run
            table.add_row(name, "unreadable", str(error).splitlines()[0])
            continue
        states.append(status.state)
        table.add_row(name, status.state, *_cells(status))
    return table, bool(states) and set(states) == {"finished"}


def _name(workdir: Path, roots: list[Path]) -> str:
    """A run's name: its path below the only root, or from the current directory."""
    below = len(roots) == 1 and workdir != roots[0]
    return str(workdir.relative_to(roots[0]) if below else workdir)


def _cells(status: Status) -> list[str | ProgressBar | Text]:
    if status.progress is None:
        return ["not begun"]
    shown = next((s for s in ("validation", "test") if s in status.metrics), None)
    return [
        ProgressBar(total=1.0, completed=status.progress, width=_BAR),
        f"{status.epoch:.1f} ({status.progress:.0%})",
        sparkline(status.losses, _SPARKLINE),
        f"{status.losses[-1]:.4f}" if status.losses else "",
        f"{shown} {status.metrics[shown]:.2%}" if shown else "",
        f"{status.images_per_second:,.0f}" if status.images_per_second else "",
        "" if status.seconds_left is None else duration(status.seconds_left),
    ]


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
