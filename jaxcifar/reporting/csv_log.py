"""CSV files to which a run appends rows, and which a resumed run continues."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.files import replacing, sync


def read_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file, ignoring a truncated last line.

    A kill may have cut that line short in any column, or it is just being written.
    """
    lines = path.read_text().splitlines(keepends=True)
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))


class CsvLog:
    """A CSV file whose first column is `step`, continued by a resumed run."""

    def __init__(self, path: Path, columns: Iterable[str], first_step: int):
        """Creates the file, or opens it and drops the rows after `first_step`.

        Args:
          path: path of the file, in an existing directory.
          columns: names of the columns.
          first_step: step from which training resumes; later rows will be written again.

        Raises:
          InputError: if the file exists but was not written by a `CsvLog` with these columns.
        """
        self._path, self._columns, kept = path, list(columns), []
        if path.exists():
            try:
                kept = [row for row in read_rows(path) if int(row["step"]) <= first_step]
                if any(row.keys() - set(self._columns) for row in kept):
                    raise ValueError("unknown columns")
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}: not a metrics table written by jaxcifar; move or repair it"
                ) from error
        with replacing(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        self._file = path.open("ab", buffering=0)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows and passes them to the operating system, unbuffered.

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
                f"{self._path}: could not write a row: {error.strerror}. Rerun the same command to "
                "resume from the last checkpoint."
            ) from error

    def sync(self) -> None:
        """Makes sure that all rows are on disk; may be called from another thread.

        Raises:
          StoppedError: if that fails.
        """
        try:
            sync(self._path)
        except OSError as error:
            raise StoppedError(f"{self._path}: not on disk: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
