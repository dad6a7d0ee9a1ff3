"""A CSV file: a header line, then a row a time step; all that ``sine`` and ``series`` read.

The delimiter is a comma, semicolon, tab or bar, whichever is most frequent in the header. Where it
is no comma and some number has a decimal comma, ``1.003`` is a thousand and three; where it is one,
a column of which every value is quoted with a decimal comma has these. Usage::

    table = read_table("passengers.csv")
    values = table.numbers(table.column("Passengers", "--targets"))     # NaN where one is missing
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import math
import os
import re

import numpy as np
from jaxtyping import Float64

from jaxrnn.data.text import decode_utf8, read_file
from jaxrnn.errors import InputError, shown

MISSING = {
    "",
    *["na", "n/a", "n.a.", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", "?", "."],
}
"""What stands for a missing value, in small letters."""

LARGEST = 1e30  # of a value: far below the largest float32, 3.4e38
MOST_BYTES = 2**30  # of a file

_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+(?:\.\d{3})*,\d+(?:[eE][-+]?\d+)?")


_MAYBE_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
_TRUTHS = {"true": 1.0, "false": 0.0}


@dataclasses.dataclass(frozen=True)
class Table:
    """A file's fields; each row has as many as the header."""

    path: str
    header: list[str]
    rows: list[list[str]]
    lines: list[int]  # the line in the file of each row
    decimal: str  # what numbers have before their fraction: '.', or ',' beside it

    def column(self, name: str, flag: str) -> int:
        """The place of a column; raises InputError, naming ``flag``, where it is not one."""
        matches = [k for k, given in enumerate(self.header) if given == name.strip()]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(
                f"{self.path} has {len(matches)} columns named {name!r} ({flag}), expected one;"
                " rename the others"
            )
        folded = {given.casefold(): given for given in self.header}
        close = difflib.get_close_matches(name.casefold(), folded, n=1)
        hint = f"; did you mean {folded[close[0]]!r}?" if close else ""
        self.refuse_numbers(self.header)
        raise InputError(
            f"{self.path} has no column {name!r} ({flag}), its columns are"
            f" {listed(self.header)}{hint}"
        )

    def texts(self, index: int) -> list[str]:
        """A column's fields."""
        return [row[index] for row in self.rows]

    def numbers(self, index: int, flag: str) -> Float64[np.ndarray, " N"]:
        """A column's values, NaN where one is missing; raises InputError for what is no number.

        A column of nothing but true and false has 1 and 0.
        """
        self._refuse_mixed(index, flag)
        truths = [_TRUTHS.get(field.strip().casefold()) for field in self.texts(index)]
        fields = zip(truths, self.texts(index), strict=True)
        if any(truth is not None for truth in truths) and all(
            truth is not None or is_missing(field) for truth, field in fields
        ):
            return np.array([math.nan if truth is None else truth for truth in truths])
        values = np.empty(len(self.rows))
        for k, row in enumerate(self.rows):
            value = self.number(row[index])
            if value is not None and abs(value) > LARGEST:
                raise InputError(self.bad_value(k, index, flag))
            if value is None:
                if not is_missing(row[index]):
                    raise InputError(self.bad_value(k, index, flag))
                value = math.nan
            values[k] = value
        return values

    def is_numeric(self, index: int) -> bool:
        """Whether a column has numbers and nothing else, but for missing values."""
        fields = self.texts(index)
        is_number = [self.number(field) is not None for field in fields]
        others = (field for field, known in zip(fields, is_number, strict=True) if not known)
        return any(is_number) and all(map(is_missing, others))

    def number(self, field: str) -> float | None:
        """The field as a number, or None; infinite where its digits are of a larger one."""
        if self.decimal == ",":
            field = field.strip()
            if _DECIMAL_COMMA.fullmatch(field):
                field = field.replace(".", "").replace(",", ".")
            elif _THOUSANDS.fullmatch(field):
                field = field.replace(".", "")
        try:
            value = float(field)
        except ValueError:
            return None
        # Python's 1_000 is no number in a CSV file.
        is_number = math.isfinite(value) or _has_digits(field)
        return value if is_number and "_" not in field else None

    def _refuse_mixed(self, index: int, flag: str) -> None:
        """Raise InputError for a column where points are of thousands and of decimals."""
        if self.decimal != ",":
            return
        fields = [field.strip() for field in self.texts(index)]
        is_comma = [bool(_DECIMAL_COMMA.fullmatch(f) or _THOUSANDS.fullmatch(f)) for f in fields]
        for k, field in enumerate(fields):
            if (
                "." in field
                and not is_comma[k]
                and self.number(field) is not None
                and any(is_comma)
            ):
                other = fields[is_comma.index(True)]
                raise InputError(
                    f"{self.path}, line {self.lines[k]}: {field!r} in column "
                    f"{self.header[index]!r} has a decimal point, {other!r} in it has none; write "
                    f"all alike, or choose another column with {flag}"
                )

    def unread(self, index: int) -> str:
        """The first field of a column that is neither a number nor missing, and its line."""
        fields = self.texts(index)
        bad = (k for k, f in enumerate(fields) if self.number(f) is None and not is_missing(f))
        k = next(bad, None)
        name = self.header[index]
        if k is None:
            return f"{name!r} has no value"
        return f"{name!r} is not read: line {self.lines[k]} has {fields[k].strip()!r}"

    def bad_value(self, row: int, index: int, flag: str) -> str:
        """What is wrong with a field that is no number."""
        field, name = self.rows[row][index].strip(), self.header[index]
        where = f"{self.path}, line {self.lines[row]}: {field!r} in column {name!r}"
        value = self.number(field)
        if value is not None and abs(value) > LARGEST:
            short = f"{self.path}, line {self.lines[row]}: {shown(field)} in column {name!r}"
            return (
                f"{short} is too large, expected at most {LARGEST:g} in size; correct it, write "
                f"the column in a larger unit, or choose another with {flag}"
            )
        if is_missing(field):
            return f"{where} is a gap, expected a finite number; fill in or remove the row"
        return f"{where} is not a number; correct it, or choose another column with {flag}"

    def refuse_numbers(self, names: list[str]) -> None:
        """A header whose names are numbers is the first row of a file without one."""
        if all(self.number(name) is not None for name in names):
            raise InputError(
                f"{self.path}, line 1: {listed(self.header)}, expected a header line; add the"
                " columns' names"
            )


def is_missing(field: str) -> bool:
    """Whether a field stands for a missing value; infinity does, too."""
    if field.strip().casefold() in MISSING:
        return True
    try:
        return not math.isfinite(float(field)) and not _has_digits(field)
    except ValueError:
        return False


def _has_digits(field: str) -> bool:
    return any(map(str.isdigit, field))


def read_table(path: str | os.PathLike[str]) -> Table:
    """The fields of a CSV file.

    Raises InputError for a file that is missing, empty, larger than ``MOST_BYTES``, not UTF-8,
    without header or rows, or ragged.
    """
    text = decode_utf8(read_file(path, MOST_BYTES), path, "convert the file to UTF-8")
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    rows, lines = [], []
    try:
        for row in reader:
            if rows and not row:  # a blank line
                continue
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: not CSV ({error}); correct the line"
        ) from None
    while rows and not any(map(str.strip, rows[-1])):
        del rows[-1], lines[-1]
    if not rows:
        raise InputError(f"{path} has only blank lines, expected a header line and rows of values")
    header = [name.strip() for name in rows[0]]
    if not any(header):
        raise InputError(f"{path}, line 1: blank, expected a header line; add the columns' names")
    if len(rows) == 1:
        raise InputError(
            f"{path} has no rows after line 1 ({listed(header)}), expected a header line and"
            " rows of values"
        )
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(row)} field{'s' * (len(row) != 1)}, expected"
                f" {len(header)} as in the header; fill in or remove the row"
            )
    has_comma = delimiter != "," and any(
        "," in field and _DECIMAL_COMMA.fullmatch(field.strip())
        for row in rows[1:]
        for field in row
    )
    if delimiter == ",":
        _write_points(rows[1:])
    return Table(str(path), header, rows[1:], lines[1:], "," if has_comma else ".")


def _write_points(rows: list[list[str]]) -> None:
    """Put decimal points in the place of commas in columns where every value has one.

    Not where all may be thousands, as 1,234.
    """
    for k in range(len(rows[0])):
        fields = [row[k].strip() for row in rows if not is_missing(row[k])]
        if all(map(_DECIMAL_COMMA.fullmatch, fields)) and not all(
            map(_MAYBE_THOUSANDS.fullmatch, fields)
        ):
            for row in rows:
                row[k] = row[k].replace(".", "").replace(",", ".")


def _delimiter(text: str) -> str:
    """The delimiter that is most frequent in the first line, outside quotes."""
    unquoted = "".join(text.partition("\n")[0].split('"')[::2])
    return max(",;\t|", key=unquoted.count)


def listed(names: list[str]) -> str:
    """Names for a message, of many the first."""
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
