"""Writes the tables and pictures of results, from results/ and nothing else.

    python scripts/results/write.py
    python scripts/results/write.py --check   # only compares; exits with code 1 if some differ

They are the tables of README.md and docs/results.md, the figures in the docstrings of configs/ and
the pictures in docs/images/results/.
"""

import argparse
import re
import sys
from pathlib import Path

import tables
from pictures import pictures
from rows import ROOT, ROWS, SWEEPS, all_rows
from runs import kept, predictions, read

_BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MEASURED = re.compile(r'^Measured: .*?(?=\n\n|\n""")', re.DOTALL | re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    stale_texts = {path: text for path, text in texts().items() if path.read_text() != text}
    stale_pictures = [picture for picture in pictures() if not picture.is_current()]
    for path in [*stale_texts, *(picture.path for picture in stale_pictures)]:
        print(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}")
    if check:
        sys.exit(1 if stale_texts or stale_pictures else 0)
    for path, text in stale_texts.items():
        path.write_text(text)
    for picture in stale_pictures:
        picture.save()


def texts() -> dict[Path, str]:
    """Returns the contents of all files that show results, by path."""
    rows = all_rows()
    found = {name: [read(path, row) for path in kept(name)] for name, row in rows.items()}
    blocks = {
        "recipes": tables.recipes(found),
        "commands": tables.commands(found),
        "curves": _images("_curve"),
        "examined": _images("_confusion", "_calibration", "_mistakes"),
        "shared_errors": _shared_errors(),
        **{name: tables.sweep(name, found) for name in SWEEPS},
    }
    pages = ROOT / "README.md", ROOT / "docs" / "results.md"
    shown = {page: _fill(page.read_text(), blocks) for page in pages}
    for name, row in ROWS.items():
        if found[name]:
            text = row.recipe_path().read_text()
            shown[row.recipe_path()] = _MEASURED.sub(tables.measured(row, found[name]), text)
    return shown


def _fill(page: str, blocks: dict[str, str]) -> str:
    return _BLOCK.sub(lambda found: f"{found[1]}\n{blocks[found[2]]}\n\n{found[3]}", page)


def _images(*endings: str) -> str:
    """The pictures whose names have these endings, in Markdown, as docs/results.md links them."""
    chosen = [picture for picture in pictures() if picture.path.stem.endswith(endings)]
    links = [f"![{picture.alt}](images/results/{picture.path.name})" for picture in chosen]
    return "\n\n".join(links) or "None yet."


def _shared_errors() -> str:
    lines = []
    for name, row in ROWS.items():
        if len(runs := kept(name)) > 1:
            sentence = tables.shared_errors([predictions(run) for run in runs])
            lines.append(f"- **{row.title}**: {sentence}")
    return "\n".join(lines) or "None yet."


if __name__ == "__main__":
    main()
