"""Dask's cluster discovery (entry point `dask_cluster_discovery`), through which dask-ctl lists our clusters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from towline._api import ControlPlane
from towline._cluster import Cluster
from towline._errors import ClusterError
from towline._loader import is_open_here
from towline._profile import load

__all__ = ["discover"]


async def discover() -> AsyncGenerator[tuple[str, Callable[..., Cluster]], None]:
    """The names of the live clusters that this machine can open, of the default profile's workspace."""
    try:
        plane = ControlPlane(load())
    except ClusterError:
        return
    try:
        for view in await plane.clusters():
            # Listing must not ask the owners of other clusters for anything.
            if is_open_here(view.id):
                yield view.name, Cluster
    finally:
        plane.close()
