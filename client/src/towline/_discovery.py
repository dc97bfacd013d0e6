"""Dask's cluster discovery (entry point `dask_cluster_discovery`), through which dask-ctl lists our clusters."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from towline._api import ControlPlane
from towline._cluster import Cluster
from towline._errors import ClusterError
from towline._profile import load

__all__ = ["discover"]


async def discover() -> AsyncGenerator[tuple[str, Callable[..., Cluster]], None]:
    """The names of the live clusters of the default profile's workspace; none without a profile."""
    try:
        plane = ControlPlane(load())
    except ClusterError:
        return
    try:
        for view in await plane.clusters():
            yield view.name, Cluster
    finally:
        plane.close()
