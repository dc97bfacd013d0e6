"""The errors that people see from this package.

Owns `ClusterError`, `ClusterEnded` and the small helpers that make one. Must not decide anything: whoever
notices a problem says what it is and what to do about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["ClusterEnded", "ClusterError", "within"]

T = TypeVar("T")


class ClusterError(RuntimeError):
    """A cluster could not be made, reached or changed.

    Parameters
    ----------
    code : str
        A stable word for programs, for example ``cluster_name_taken``.
    message : str
        What happened, naming the thing.
    remedy : str
        What to do about it. May be empty when nothing can be done.
    """

    def __init__(self, code: str, message: str, remedy: str = "") -> None:
        super().__init__(code, message, remedy)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        sentence = self.message.rstrip()
        if sentence and sentence[-1] not in ".!?":
            sentence += "."
        return f"{sentence} {self.remedy.strip()} [{self.code}]".replace("  ", " ")


class ClusterEnded(ClusterError):  # noqa: N818 - it says what has happened, and reads so in `except`
    """The cluster is no more, and with it the work that was not finished.

    Raised by futures of a client of a `towline.Cluster` when the cluster ends by a rule of its own (`code` says which:
    ``idle``, ``no_client``, ``max_lifetime``), is stopped by somebody else (``closed``), or fails.
    """


async def within(awaitable: Awaitable[T], *, seconds: float, error: ClusterError) -> T:
    """Wait for something, but not forever.

    Parameters
    ----------
    awaitable : awaitable
        What is waited for. It is cancelled when the time is up.
    seconds : float
        The limit.
    error : ClusterError
        Raised when the limit passes; it names what was waited for.
    """
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except (asyncio.TimeoutError, TimeoutError):
        raise error from None
