"""Compares runs: a table in the terminal, or a report with pictures for a browser or a paper.

    jaxcifar report runs/ablations_sweep
    jaxcifar report runs/resnet20 runs/resnet56 --out report.html
    jaxcifar report runs/ablations_sweep --png figures

Each directory is a run or contains runs at any depth. Without --out or --png a table is printed as
Markdown: one row per config, with mean and deviation over its seeds, and for each the fields whose
value is not that of the majority. Test accuracy is that of the last step, because the best step may
only be chosen on validation images; train accuracy is that of the last logging interval, on
augmented images.

--out writes a single HTML file that opens without a network: curves, configs compared, predictions
and layer statistics. --png writes each figure as a file. `jaxcifar eval RUN` saves what the figures
of predictions need. Drawing needs the extra "figures".
"""

import sys
from pathlib import Path

from absl import flags

from jaxcifar.errors import InputError
from jaxcifar.tools import cli

_OUT = flags.DEFINE_string("out", None, "HTML file to write.")
_PNG = flags.DEFINE_string("png", None, "Directory to write a PNG of each figure to.")


def main(arguments: list[str]) -> None:
    """Shows the runs in the directories that the arguments name."""
    if not arguments:
        raise InputError("name directories of runs, e.g. jaxcifar report runs/ablations_sweep")
    out = Path(_OUT.value) if _OUT.value else None
    if out and out.suffix not in (".html", ".htm"):
        raise InputError(f"--out={out}: the file name must end in .html")
    from jaxcifar.report import runs, search, table  # slow to import; --help does not need it

    roots = [Path(argument) for argument in arguments]
    found, problems = runs.find(roots)
    if not (out or _PNG.value):
        print(table.table(found))
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        return
    from jaxcifar.report import png
    from jaxcifar.report.build import build
    from jaxcifar.report.page import page
    from jaxcifar.resilience.files import write_text

    if _PNG.value:
        png.check_installed()
    report = build(found, problems, search.find(roots))
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    if out:
        text = page(report)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
        print(f"written: {out} ({len(text.encode()) / 1e6:.1f} MB)")
    if _PNG.value:
        paths = png.write(report, Path(_PNG.value))
        print(f"written: {len(paths)} figures in {_PNG.value}")


if __name__ == "__main__":
    cli.run(main, __doc__, takes_arguments=True)
