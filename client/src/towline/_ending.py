"""What becomes of a client's futures when its cluster ends.

Owns the client's half of the close in two phases (the scheduler's half is `towline_scheduler.py`, which the agent
brings): on `closing` the client holds what it would send and says so behind everything that it has sent; on `open` it
goes on; on `closed` every future of it raises `ClusterEnded`. So a submitted future completes or raises, and none waits
for a cluster that is gone. Must not decide that a cluster ends: the scheduler or the control plane says so.

Put on a client by `Cluster` when the client starts; a client that was made without our cluster object keeps Dask's own
behaviour (cancellation).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from distributed.client import Client

from towline._errors import ClusterEnded

__all__ = ["Ending", "attach"]

logger = logging.getLogger("towline")

#: Clients of one process hear the same warning at about the same time.
_SAME_WARNING_SECONDS = 0.5
#: The topic on which the scheduler speaks of its end.
_TOPIC = "towline"
#: A scheduler decides within seconds. One that says nothing more is gone or stuck, and holding on would hide that.
_HOLD_SECONDS = 15.0
#: How long a lost connection waits for the control plane to say that the cluster has ended.
_REASON_SECONDS = 3.0

#: Waits up to so many seconds for the reason of the cluster's end.
Reason = Callable[[float], Awaitable["ClusterEnded | None"]]


class Ending:
    """One client's readiness for the end."""

    def __init__(self, client: Client, reason: Reason) -> None:
        self.client = client
        self.error: ClusterEnded | None = None
        self._reason = reason
        self._held: list[dict[str, Any]] | None = None
        self._token: object = None
        # Dask's own methods, which ours go through.
        self._send = client._send_to_scheduler
        self._send_safe = client._send_to_scheduler_safe
        self._gather = client._gather
        self._reconnect = client._reconnect

    def install(self) -> None:
        """Put ourselves before the client's own methods. Called in the client's loop, while it starts."""
        client: Any = self.client
        client._send_to_scheduler = self.send
        client._send_to_scheduler_safe = self.send_safe
        client._gather = self.gather
        client._reconnect = self.reconnect
        client.subscribe_topic(_TOPIC, self.hear)

    # -- what the scheduler says -------------------------------------------------------------------------------------

    def hear(self, event: Any) -> None:
        """An event of our topic: `(timestamp, message)`."""
        _, message = event
        state = message.get("state") if isinstance(message, dict) else None
        if state == "closing":
            self._hold(message.get("token"))
        elif state == "open":
            self.release()
        elif state == "warning":
            self._warn(message.get("remaining"))
        elif state == "closed":
            self.ended(ended(str(message.get("reason"))))

    def _warn(self, remaining: object) -> None:
        """Idleness is about to end the cluster. Said once, however many clients of this process hear it."""
        cluster = self.client.cluster
        if isinstance(remaining, bool) or not isinstance(remaining, int) or remaining < 0:
            return
        told = vars(cluster).setdefault("_told_of_end", []) if cluster is not None else []
        if told and monotonic() - told[-1] < _SAME_WARNING_SECONDS:
            return
        told.append(monotonic())
        logger.warning(
            "nobody has used the cluster %s for a while: it ends in %d s unless somebody does; "
            "`cluster.hold(...)` keeps it",
            getattr(cluster, "name", ""),
            remaining,
        )

    def _hold(self, token: object) -> None:
        if self._held is None:
            self._held = []
        self._token = token
        # On the same stream, so behind everything that was sent before.
        self._send_safe({"op": "towline-holding", "token": token})
        asyncio.get_running_loop().call_later(_HOLD_SECONDS, lambda: self.release() if self._token is token else None)

    def release(self) -> None:
        """Send what was held."""
        held, self._held, self._token = self._held, None, None
        for message in held or ():
            self.send_safe(message)

    def ended(self, error: ClusterEnded) -> None:
        """Let every future raise. Called in the client's loop; the second time does nothing."""
        if self.error is not None:
            return
        self.error = error
        self.release()
        for state in list(self.client.futures.values()):
            # Results lay with the workers, so those that were there are gone too. Errors were delivered already.
            if state.status != "error":
                state.set_error(error, None)
        # Closing the client would turn what is left into cancellations.
        self.client.futures.clear()

    # -- in place of the client's own methods ------------------------------------------------------------------------

    def send(self, message: dict[str, Any]) -> None:
        """Refuse new work in the thread that asks for it."""
        if self.error is not None and message.get("op") == "update-graph":
            # Dask has made futures of it already, and would give them to whoever asks for the same key again.
            refused = self._forget(message)
            if self.client.loop is not None:
                self.client.loop.add_callback(self._refuse, refused)
            raise self.error
        self._send(message)

    def send_safe(self, message: dict[str, Any]) -> None:
        """Hold, send, or answer for a cluster that is no more. In the client's loop."""
        operation = message.get("op")
        if self.error is not None and operation == "update-graph":
            # It was on its way here while the cluster closed.
            self._refuse(self._forget(message))
            return
        if self._held is None:
            self._send_safe(message)
        elif operation in ("close-client", "close-stream"):
            self.release()
            self._send_safe(message)
        else:
            self._held.append(message)

    def _forget(self, message: dict[str, Any]) -> list[Any]:
        states = [self.client.futures.pop(key, None) for key in message.get("keys", ())]
        return [state for state in states if state is not None]

    def _refuse(self, states: list[Any]) -> None:
        for state in states:
            state.set_error(self.error, None)

    async def gather(self, *args: Any, **kwargs: Any) -> Any:
        """Fetch results; a connection that broke because the cluster ended says so."""
        try:
            return await self._gather(*args, **kwargs)
        except OSError as error:
            reason = self.error or await self._reason(_REASON_SECONDS)
            if reason is None:
                raise
            raise reason from error

    async def reconnect(self) -> None:
        """The scheduler is gone. For good, if the control plane knows why; else Dask tries again."""
        reason = self.error or await self._reason(_REASON_SECONDS)
        if reason is None:
            await self._reconnect()
            return
        self.ended(reason)
        await self.client._close()


def attach(client: Client, reason: Reason) -> Ending:
    """Make a client ready for its cluster's end; once."""
    known = getattr(client, "_towline_ending", None)
    if isinstance(known, Ending):
        return known
    ending = Ending(client, reason)
    client._towline_ending = ending  # type: ignore[attr-defined]
    ending.install()
    return ending


_SENTENCES = {
    "idle": "the cluster was idle for as long as its owner allowed, and has ended",
    "no_client": "no client was connected for as long as the cluster's owner allowed, and it has ended",
}


def ended(code: str) -> ClusterEnded:
    """The error for a reason that the scheduler gave as a word."""
    message = _SENTENCES.get(code, f"the cluster has ended: {code}")
    return ClusterEnded(code, message, "Make a new one: `towline.Cluster(...)`.")
