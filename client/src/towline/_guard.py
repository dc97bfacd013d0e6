"""Noticing that a cluster is being made where none can be wanted: while a program is imported for the second time.

A script without `if __name__ == "__main__":` is run again in every child that `multiprocessing` spawns, and a module of
one's own is imported again on every worker. Each would ask for a cluster of its own. Owns only that check.
"""

from __future__ import annotations

import multiprocessing
import sys

from towline._errors import ClusterError

__all__ = ["refuse_second_import"]

_REMEDY = (
    'Put the lines that make the cluster under `if __name__ == "__main__":`, '
    "so that importing the program does nothing."
)


def refuse_second_import() -> None:
    """Refuse to go on inside a child that is importing the main program, or inside a Dask worker.

    Raises
    ------
    ClusterError
        ``main_guard_missing``.
    """
    # Set by multiprocessing only while a spawned child prepares itself, which is when it imports the main program.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ClusterError(
            "main_guard_missing",
            "this program asks for a cluster while a child process of it imports it",
            _REMEDY,
        )
    if _inside_worker():
        raise ClusterError(
            "main_guard_missing",
            "this code asks for a cluster inside a Dask worker, most likely because the worker imports the module",
            _REMEDY,
        )


def _inside_worker() -> bool:
    worker = sys.modules.get("distributed.worker")
    if worker is None or not any(worker.Worker._instances):
        return False
    # A LocalCluster may hold its workers in this very process; then this is a person's program after all.
    spec = sys.modules.get("distributed.deploy.spec")
    return spec is None or not any(spec.SpecCluster._instances)
