"""Reading a cluster's log lines from its sink, with the person's own rights. Only `file` sinks yet.

Owns the way from a sink's streams to the keys that Dask people know: `Cluster`, `Scheduler`, worker addresses.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from distributed.utils import Log, Logs

from towline._views import ClusterView

__all__ = ["read", "streams"]

#: The end of each stream that is shown: long enough for a traceback storm, short enough for a notebook.
_TAIL = 1024 * 1024


def streams(view: ClusterView) -> dict[str, Path]:
    """The stream files that are here, by stream name: `scheduler`, `worker-<host id>`."""
    if view.logs_kind != "file" or not view.logs_directory:
        return {}
    folder = Path(view.logs_directory)
    # A sink may be shared by clusters, with a folder for each.
    own = folder / view.id
    folder = own if own.is_dir() else folder
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in sorted(folder.glob("*.log")) if file.is_file()}


def read(
    view: ClusterView,
    said: list[str],
    addresses: Mapping[str, str],
    cluster: bool,
    scheduler: bool,
    workers: bool | Iterable[str],
) -> Logs | None:
    """What the sink has, by Dask's keys; None when it is not here.

    Parameters
    ----------
    view : ClusterView
        Names the sink.
    said : list of str
        The lines of the cluster object itself.
    addresses : mapping
        Worker name to address, for the live workers.
    cluster, scheduler, workers
        As for `Cluster.get_logs`.
    """
    files = streams(view)
    if not files:
        return None
    logs = Logs()
    if cluster:
        logs["Cluster"] = Log("\n".join(said))
    if scheduler and "scheduler" in files:
        logs["Scheduler"] = Log(_tail(files["scheduler"]))
    if workers:
        wanted = None if workers is True else set(workers)
        for stream, file in files.items():
            name = stream.removeprefix("worker-")
            key = addresses.get(name, name)
            if stream != "scheduler" and (wanted is None or key in wanted or name in wanted):
                logs[key] = Log(_tail(file))
    return logs


def _tail(file: Path) -> str:
    with file.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - _TAIL))
        text = handle.read(_TAIL).decode("utf-8", "replace")
    if size > _TAIL:
        # The first line is cut.
        text = text.partition("\n")[2]
    return text.rstrip("\n")
