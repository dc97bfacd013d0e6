"""Towline's part inside a worker: what its host's agent measures, carried to the scheduler with each heartbeat.

The scheduler's host decides whether a cluster is needed, and sees nothing of the GPUs, disks and people of other hosts. So
each agent leaves its word in a file of its host, and this reads it. Four words, never a key or a name. Loaded by
`towline_preload.py`, in workers only. Must not judge.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Any

#: An older word says nothing of now: the agent speaks every ten seconds at least.
WORD_SECONDS = 60.0


def of_host(host: str) -> Callable[[Any], dict[str, str] | None]:
    """A metric of a worker: what the agent of the host in this directory says."""

    def metric(_: Any) -> dict[str, str] | None:
        return read(os.path.join(host, "agent", "word.json"), clock_gettime(CLOCK_BOOTTIME))

    return metric


def read(path: str, now: float) -> dict[str, str] | None:
    """The agent's word; None of an agent that has not measured yet, or is older than this.

    Of an agent that is silent for long, what was busy is not known any more; what was quiet stays so.
    """
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
        word = {str(kind): str(signal) for kind, signal in told["word"].items()}
        if now - told["at"] > WORD_SECONDS:
            word = {kind: signal if signal == "quiet" else "unclear" for kind, signal in word.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return word
