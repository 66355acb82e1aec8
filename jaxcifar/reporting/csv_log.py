"""CSV files that a run adds to and a resumed run goes on with."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.resilience.failpoints import kill_at


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, but one whose end is missing.

    A kill may have cut the last line short, in any column, or it is being written.
    """
    lines = path.read_text().splitlines(keepends=True)
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))


class Table:
    """A CSV file that a resumed run goes on with; its first column is `step`."""

    def __init__(self, path: Path, columns: Iterable[str], first_step: int):
        """Opens the file, new or with its rows up to `first_step`.

        Args:
          path: in an existing directory.
          columns: their names.
          first_step: the step that the run goes on from; later rows will be written again.

        Raises:
          InputError: if the file is not such a table.
        """
        self._path, self._columns, kept = path, list(columns), []
        if path.exists():
            try:
                kept = [row for row in read_rows(path) if int(row["step"]) <= first_step]
                if any(row.keys() - set(self._columns) for row in kept):
                    raise ValueError("other columns")
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}: not a table that a run has written; move it away or mend it"
                ) from error
        part = path.with_name(path.name + ".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        part.replace(path)
        self._file = path.open("ab", buffering=0)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, and hands them to the operating system.

        Raises:
          StoppedError: if they cannot be written.
        """
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerows(rows)
        data = text.getvalue().encode()
        kill_at("row", before=lambda: self._file.write(data[: len(data) // 2]))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise StoppedError(
                f"{self._path}: a row could not be written: {error.strerror}. The same command "
                "goes on from the last checkpoint."
            ) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
