"""The weather at New York's airports, hour by hour, as words: the first band of this package's data file that fits."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from towline_demo.flights import data_folder

_KEYS = {"origin": "str", "month": "int64", "day": "int64", "hour": "int64"}


def bands() -> pd.DataFrame:
    """The bands in order of precedence: `band`, `measure`, `at_least`, `below`."""
    with (files("towline_demo") / "data" / "weather-bands.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def weather(_part: int = 0) -> pd.DataFrame:
    """One row for each airport and hour: `origin`, `month`, `day`, `hour` and `weather`, a band's name."""
    measures = sorted(set(bands()["measure"]))
    table = pd.read_csv(data_folder() / "weather.csv", usecols=[*_KEYS, *measures], dtype=_KEYS)
    table["weather"] = "unknown"
    # Last band first, so that the first one that fits has the last word.
    for band in bands().iloc[::-1].itertuples():
        value = table[band.measure]
        fits = value.notna()
        if pd.notna(band.at_least):
            fits &= value >= band.at_least
        if pd.notna(band.below):
            fits &= value < band.below
        table.loc[fits, "weather"] = band.band
    # Three hours of the year are in the file twice (the end of summer time).
    return table.drop_duplicates(list(_KEYS))[[*_KEYS, "weather"]].astype({"weather": "str"})


def weather_shape() -> pd.DataFrame:
    """An empty table of the columns and types that `weather` gives."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in {**_KEYS, "weather": "str"}.items()})
