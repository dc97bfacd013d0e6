"""The table and the page of figures. Pure but for what the kernel says of the machine."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import Row

#: Where there is no figure.
NOTHING = "-"


@dataclass(frozen=True)
class Taken:
    """All that was measured, and with what."""

    rows: Sequence[Row]
    where: Sequence[str]
    peers: dict[str, str]
    spin: tuple[float, float]
    rounds: int
    debug: bool
    towline: str


def figure(values: Sequence[float], unit: str) -> str:
    """The median with its unit, and from where to where the rounds went."""
    if not values:
        return NOTHING
    middle = f"{short(statistics.median(values))} {unit}"
    if len(values) == 1:
        return middle
    return f"{middle} ({short(min(values))} to {short(max(values))})"


def short(value: float) -> str:
    """Three digits or so."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown; what must be known of a row stands below."""
    lines = ["| what | Towline | beside | its figure | ratio |", "| --- | ---: | --- | ---: | ---: |"]
    notes = []
    for row in rows:
        ratio = row.ratio()
        mark = ""
        if row.note:
            if row.note not in notes:
                notes.append(row.note)
            mark = f" [{notes.index(row.note) + 1}]"
        cells = [row.name + mark, figure(row.ours, row.unit), row.peer, figure(row.theirs, row.unit),
                 NOTHING if ratio is None else f"{ratio:.2f}"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    for number, note in enumerate(notes, 1):
        lines += ["", f"[{number}] {note}."]
    return "\n".join(lines)


def machine() -> str:
    """Cores, memory and kernel of this machine, and nothing that names it."""
    total = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")
    )
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return f"{os.cpu_count()} cores, {total / 1024 / 1024:.0f} GiB, Linux {kernel} on {platform.machine()}"


def page(taken: Taken) -> str:
    """The page of figures."""
    before, after = taken.spin
    size, day = Path(taken.towline).stat().st_size / 1e6, time.strftime("%Y-%m-%d", time.gmtime())
    kind = "**debug binary: these figures say nothing about the product**" if taken.debug else "released binary"
    peers = ", ".join(f"{name} {version}" for name, version in sorted(taken.peers.items()))
    intro = (
        f"Written by `cargo xtask bench` on {day}; nothing is gated by these numbers. Each figure is a median, "
        f"with the least and the most of its rounds where there were several ({taken.rounds} for starts and logs, half "
        "of that for cold starts, a third for sessions, one for rest); ours and the peer are measured in one run, in "
        "turns where a round is short. "
        f"Towline: {kind} ({size:.0f} MB). Machine: {machine()}. Peers: {peers}; Python {sys.version.split()[0]}. "
        f"A loop on one core turned {before:.1f} million times in a second before and {after:.1f} after: where these "
        "differ by more than a tenth, the machine did something else, too."
    )
    where = "\n".join(textwrap.fill(line, 118, initial_indent="- ", subsequent_indent="  ") for line in taken.where)
    return f"""# Figures

{textwrap.fill(intro, 118)}

{table(taken.rows)}

## Where the time goes

{where}
"""
