"""CSV files to which a run appends rows, and which a resumed run continues."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxcifar.errors import InputError, StoppedError
from jaxcifar.regular_files import check_regular
from jaxcifar.reporting import table_damage
from jaxcifar.reporting.table_damage import Row, Steps
from jaxcifar.resilience.failpoints import kill_at
from jaxcifar.resilience.files import replacing, sync


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a CSV file, ignoring a truncated last line.

    A kill may have cut that line short in any column, or it is just being written.
    """
    check_regular(path)
    lines = path.read_text().splitlines(keepends=True)
    return list(csv.DictReader(line for line in lines if line.endswith("\n")))


class CsvLog:
    """A CSV file whose first column is `step`, continued by a resumed run.

    Attributes:
      warnings: what is wrong with the rows up to the step from which training resumes.
      steps: steps of the rows by what they are of, see `table_damage.Steps`.
    """

    def __init__(
        self,
        path: Path,
        columns: Iterable[str],
        first_step: int,
        expected: Mapping[str, Steps] | None = None,
    ):
        """Creates the file, or opens it and drops the rows after `first_step`.

        A copy of a row is dropped, and a last line that was cut short; all other rows are kept.

        Args:
          path: path of the file, in an existing directory.
          columns: names of the columns; the third tells what a row is of, such as its split.
          first_step: step from which training resumes; later rows will be written again.
          expected: `steps` as it was at that step; None if that is unknown.

        Raises:
          InputError: if the file exists but was not written by a `CsvLog` with these columns.
        """
        self._path, self._columns = path, list(columns)
        kept, self.warnings = self._read(first_step)
        self.steps = table_damage.steps_by_name(kept, self._columns[2])
        if missing := table_damage.describe_missing(expected or {}, self.steps):
            self.warnings.append(f"{path}: rows are missing: {missing}")
        with replacing(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        self._file = path.open("ab", buffering=0)

    def _read(self, first_step: int) -> tuple[list[Row], list[str]]:
        """The rows of the file up to a step, and what is wrong with them."""
        if not self._path.exists():
            return [], []
        check_regular(self._path)
        try:
            rows = read_rows(self._path)
            last, warning = table_damage.read_cut_line(self._path.read_text(), first_step)
            kept = [row for row in [*rows, *last] if int(row["step"]) <= first_step]
            if any(row.keys() - set(self._columns) for row in kept):
                raise ValueError("unknown columns")
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                f"{self._path}: not a metrics table written by jaxcifar; move or repair it"
            ) from error
        kept, warnings = table_damage.without_copies(kept, self._columns[2])
        return kept, [f"{self._path}: {text}" for text in [*warning, *warnings]]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows and passes them to the operating system, unbuffered.

        Raises:
          StoppedError: if they cannot be written.
        """
        rows = list(rows)
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
        for row in rows:
            table_damage.add_step(self.steps, str(row[self._columns[2]]), row["step"])

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
