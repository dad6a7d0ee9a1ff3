"""A CSV file, hour by hour, and what is read of it."""

from pathlib import Path
from typing import Any

from jaxrnn.data.series import ReadOptions, read_series


def write_table(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(path, **options) -> Any:
    return read_series(path, ReadOptions(**options))


def hours(rows: dict[int, str], header="date,x") -> str:
    lines = [f"2020-01-{1 + k // 24:02} {k % 24:02}:00,{value}" for k, value in rows.items()]
    return "\n".join([header, *lines]) + "\n"
