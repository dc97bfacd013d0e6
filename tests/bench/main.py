"""Figures, each beside its peer or floor in the same run: measures the rows, prints the table, writes the page.

Run by `cargo xtask bench`, which gives the binaries, uv and an interpreter with Dask. Nothing is gated by a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import logs
import sessions
import stores
from page import Taken, page, table
from parts import Bench, Row, spin

import cluster

#: What can be measured alone: how, and what can be said of where the time goes.
ROWS: dict[str, tuple[Callable[[Bench], list[Row]], Callable[[Sequence[Row]], list[str]]]] = {
    "start": (cluster.start, cluster.where_start),
    "rest": (cluster.rest, cluster.where_rest),
    "logs": (logs.rows, logs.where),
    "stores": (stores.rows, stores.where),
    "sessions": (sessions.rows, sessions.where),
}


def is_debug(towline: str) -> bool:
    """Whether the binary says that it was built without optimisation."""
    said = subprocess.run([towline, "version", "--json"], check=True, capture_output=True, text=True).stdout
    return bool(json.loads(said).get("debug", True))


def counts(text: str) -> list[int]:
    """Numbers of hosts, 2 to 5000 each."""
    found = [int(word) for word in text.split(",")]
    if not found or not all(2 <= count <= 5000 for count in found):
        raise ValueError(text)
    return found


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="rows to measure; all when none is named")
    for name in ("towline", "helper", "uv", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--cloud", required=True, help="the fake cloud")
    parser.add_argument("--packages", type=Path, help="folder of the peers' unpacked packages")
    parser.add_argument("--page", type=Path, help="Markdown file to write when all rows were measured")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=190, help="size of the log file")
    parser.add_argument("--hosts", type=counts, default=[100, 500, 1000], help="numbers of simulated hosts")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--allow-debug", action="store_true", help="write the page from a debug binary, too")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    wish = asked()
    names = [name for name in ROWS if name in wish.rows or not wish.rows]
    whole, debug = names == list(ROWS), is_debug(wish.towline)
    if wish.page and whole and debug and not wish.allow_debug:
        raise SystemExit(
            f"{wish.towline} is a debug binary: its figures go into no page. "
            "Build it with --release, or say --allow-debug"
        )
    os.environ["TOWLINE_BINARY"] = wish.towline
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(
        wish.towline, wish.helper, wish.uv, Path(wish.work), wish.rounds, wish.megabytes, wish.hosts,
        lambda line: print(line, file=sys.stderr, flush=True),
        wish.cloud, wish.packages,
    )  # fmt: skip
    idle, found, where = [spin()], [], []
    for name in names:
        bench.say(f"{name}:")
        rows = ROWS[name][0](bench)
        found += rows
        where += ROWS[name][1](rows)
    idle.append(spin())
    taken = Taken(found, where, bench.peers, (idle[0], idle[1]), wish.rounds, debug, wish.towline)
    if wish.json:
        print(
            json.dumps({"debug": debug, "spin": idle, "peers": bench.peers, "rows": [row.as_json() for row in found]})
        )
    else:
        print(table(found))
    if wish.page and whole:
        wish.page.write_text(page(taken))
    elif wish.page:
        bench.say(f"{wish.page.name} is written when all rows are measured")


if __name__ == "__main__":
    main()
