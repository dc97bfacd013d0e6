"""Reading a cluster's log lines with the person's own rights: files that lie here, else by the `towline` binary.

Owns the way from JSON lines to the keys that Dask people know: `Cluster`, `Scheduler`, worker addresses. The format is
told in `docs/logs.md`.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distributed.utils import Log, Logs

from towline._binary import Binary
from towline._views import ClusterView

__all__ = ["Wanted", "ask", "read", "streams"]

#: The end of each stream that is shown: long enough for a traceback storm, short enough for a notebook.
_TAIL = 1024 * 1024

#: How long the binary may read: a store over a network answers by pages.
_ASK_SECONDS = 300.0

#: Read at once from the end of a file.
_BLOCK = 256 * 1024


def streams(view: ClusterView) -> dict[str, list[Path]]:
    """The files of each stream that is here, the oldest first, by stream name: `scheduler`, `worker-<host id>`."""
    if view.logs_kind != "file" or not view.logs_directory:
        return {}
    folder = Path(view.logs_directory)
    # A sink may be shared by clusters, with a folder for each.
    own = folder / view.id
    folder = own if own.is_dir() else folder
    found: dict[str, list[tuple[float, Path]]] = {}
    if folder.is_dir():
        for file in folder.glob("*.jsonl"):
            # `worker-a.jsonl` is being written, `worker-a.000001.jsonl` is full.
            stream, _, number = file.name.removesuffix(".jsonl").partition(".")
            if (not number or number.isdecimal()) and file.is_file():
                found.setdefault(stream, []).append((int(number) if number else float("inf"), file))
    return {stream: [file for _, file in sorted(files)] for stream, files in sorted(found.items())}


@dataclass(frozen=True)
class Wanted:
    """What somebody asked for, as for `Cluster.get_logs`.

    Parameters
    ----------
    said : list of str
        The lines of the cluster object itself.
    addresses : mapping
        Worker name to address, for the live workers.
    cluster, scheduler, workers
        As for `Cluster.get_logs`.
    """

    said: list[str]
    addresses: Mapping[str, str]
    cluster: bool
    scheduler: bool
    workers: bool | Iterable[str]

    def logs(self, found: Mapping[str, Callable[[], str]]) -> Logs:
        """By Dask's keys. `found` gives the text of each stream by the stream's name."""
        logs = Logs()
        if self.cluster:
            logs["Cluster"] = Log("\n".join(self.said))
        if self.scheduler and "scheduler" in found:
            logs["Scheduler"] = Log(found["scheduler"]())
        if self.workers:
            wanted = None if self.workers is True else set(self.workers)
            for stream, text in found.items():
                name = stream.removeprefix("worker-")
                key = self.addresses.get(name, name)
                if stream != "scheduler" and (wanted is None or key in wanted or name in wanted):
                    logs[key] = Log(text())
        return logs


def read(view: ClusterView, wanted: Wanted) -> Logs | None:
    """What the files here have, by Dask's keys; None when there are none here."""
    found = streams(view)
    if not found:
        return None
    return wanted.logs({stream: partial(_tail, files, view) for stream, files in found.items()})


async def ask(binary: Binary, view: ClusterView, wanted: Wanted) -> Logs:
    """What the binary reads: from the cluster's hosts while it lives, then from its store.

    Raises
    ------
    ClusterError
        The lines cannot be read from here; it says where they are.
    """
    ends: dict[str, _End] = {}

    def take(record: dict[str, Any]) -> None:
        end = ends.setdefault(str(record.get("stream", "")), _End())
        end.push(_gap(record["gap"]) if isinstance(record.get("gap"), dict) else str(record.get("line", "")))

    arguments = ("logs", view.id, "--json")
    await binary.lines(arguments, take, stdin=b"", what="the log lines", seconds=_ASK_SECONDS)
    return wanted.logs({stream: partial(end.text, view) for stream, end in sorted(ends.items())})


class _End:
    """The last lines of a stream that comes from its begin, at most `_TAIL` characters."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0
        self._cut = False

    def push(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line) + 1
        while self._size > _TAIL:
            self._size -= len(self._lines.popleft()) + 1
            self._cut = True

    def text(self, view: ClusterView) -> str:
        return "\n".join([_left_out(view), *self._lines] if self._cut else self._lines)


def _left_out(view: ClusterView) -> str:
    return f"[earlier lines are left out; `towline logs {view.name or view.id}` shows them]"


def _tail(files: list[Path], view: ClusterView) -> str:
    """The last lines of a stream, each once, at most `_TAIL` characters."""
    lines: deque[str] = deque()
    size = 0
    for line in _lines_backwards(files):
        size += len(line) + 1
        if size > _TAIL:
            lines.appendleft(_left_out(view))
            break
        lines.appendleft(line)
    return "\n".join(lines)


def _lines_backwards(files: list[Path]) -> Iterator[str]:
    """Lines from the last one on. What was delivered twice is told by its id, parts of a long line are one line."""
    first: int | None = None
    later: list[str] = []
    for record in _records_backwards(files):
        number = record.get("id")
        if not isinstance(number, int) or (first is not None and number >= first):
            continue
        first = number
        if later and not record.get("more"):
            # A part whose beginning was lost in a gap.
            yield "".join(reversed(later))
            later = []
        if isinstance(record.get("gap"), dict):
            yield _gap(record["gap"])
        elif record.get("part", 0) > 1:
            later.append(str(record.get("line", "")))
        else:
            later.append(str(record.get("line", "")))
            yield "".join(reversed(later))
            later = []
    if later:
        yield "".join(reversed(later))


def _gap(gap: Mapping[str, Any]) -> str:
    lines = gap.get("lines")
    many = f"{lines} lines ({gap.get('bytes')} bytes)" if lines is not None else f"at least {gap.get('bytes')} bytes"
    return f"[{many} are missing here: {gap.get('reason')}]"


def _records_backwards(files: list[Path]) -> Iterator[dict[str, Any]]:
    for file in reversed(files):
        try:
            for line in _raw_backwards(file):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict):
                    yield record
        except FileNotFoundError:
            # It was put aside or removed since the folder was listed.
            continue


def _raw_backwards(file: Path) -> Iterator[bytes]:
    """Whole lines of a file, the last one first. What has no line end is still being written."""
    with file.open("rb") as handle:
        at = handle.seek(0, os.SEEK_END)
        rest = b""
        ended = False
        while at > 0:
            size = min(_BLOCK, at)
            at -= size
            handle.seek(at)
            rest = handle.read(size) + rest
            first, *whole = rest.split(b"\n")
            if not ended and whole:
                whole.pop()
                ended = True
            yield from reversed(whole)
            rest = first
        if ended:
            yield rest
