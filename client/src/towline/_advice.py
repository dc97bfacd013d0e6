"""Advice on a cluster that runs: GPUs that are paid for and do nothing.

Owns what was said already. The control plane decides when there is something to say. Must not end or change anything.
"""

from __future__ import annotations

import logging

from towline._views import ClusterView

__all__ = ["Advice"]

logger = logging.getLogger("towline")


class Advice:
    """What one cluster object has told its person."""

    def __init__(self) -> None:
        self._told = False

    def saw(self, view: ClusterView, _before: ClusterView) -> None:
        """Take in a newer view of the cluster; warn once in this object's life."""
        unused = [host.id for host in view.hosts if host.gpus_unused and host.state != "ended"]
        if self._told or not unused:
            return
        self._told = True
        one = len(unused) == 1
        logger.warning(
            "the GPUs of %s of the cluster %s have done nothing for 15 min or more: hosts without GPUs would do the "
            "same work for less; `cluster.why()` says more",
            f"the host {unused[0]}" if one else f"{len(unused)} hosts",
            view.name,
        )
