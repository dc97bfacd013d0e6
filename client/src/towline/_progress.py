"""Telling a person, or a program, how far a start has got.

Owns the progress events and the ways to show them: a live table in a terminal, plain lines elsewhere, one JSON object
per line for programs, a function of one's own. Must not decide what happens next, and never breaks a start: what a
display raises is dropped after one word of warning.

Every event is a dictionary with `event` and `at` (Unix seconds):

- ``phase``: `phase`, `state` (`started`, `progress`, `done`, `failed`), `message`, and where known `done`, `total`,
  `seconds` (of the whole phase).
- ``host``: `host`, `role`, `state`, and where known `phase` reached with its `millis`, `waiting_for` with `late`,
  `reason`, `sign_off`.
- ``cluster``: `cluster`, `name`, `state`.
- ``environment``: `digest`, `packages`, `uploaded_bytes`.
- ``admission``: `state` (`asked`, `admitted`; for the owner also `requested`), `message`, `name` of the cluster,
  `client`; for whoever asks `owner`, `code` and `command`; for the owner `person`.
- ``note``: `message`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO

from towline._errors import ClusterError
from towline._views import ClusterView, HostView, OutOfMemory

__all__ = ["Event", "Reporter", "Step", "choose"]

Event = dict[str, Any]
logger = logging.getLogger("towline")

#: Plain lines say that a phase has begun only when it has not ended by then.
_PATIENCE = 3.0


class Display(Protocol):
    """Shows events."""

    def show(self, event: Event) -> None:
        """Show one event. Called from one thread at a time."""

    def rest(self) -> None:
        """A start, or an end, is over: give the terminal back."""


class Reporter:
    """Makes events and hands them to a display.

    Parameters
    ----------
    display : Display
        Where they go.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._lock = threading.Lock()
        self._broken = False
        self._hosts: dict[str, tuple[int, str, bool]] = {}
        self._kills: dict[tuple[str, str, int], int] = {}
        #: What the newest phase says it does, for the message of a limit that passes.
        self.doing = "the start"

    def emit(self, event: str, **fields: Any) -> None:
        """Show one event; fields that are None are left out."""
        record: Event = {"event": event, "at": round(time.time(), 3)}
        record.update((name, value) for name, value in fields.items() if value is not None)
        with self._lock:
            if self._broken:
                return
            try:
                self._display.show(record)
            except Exception:
                self._broken = True
                logger.warning("the progress display failed and is switched off", exc_info=True)

    def rest(self) -> None:
        """A start, or an end, is over: let go of the terminal."""
        with self._lock, contextlib.suppress(Exception):
            self._display.rest()

    @contextlib.contextmanager
    def step(self, phase: str, message: str) -> Iterator[Step]:
        """One phase: `started` now; `done` or `failed` with its seconds at the end."""
        step = Step(self, phase, message)
        try:
            yield step
        except BaseException as error:
            step.fail(error)
            raise
        else:
            step.done()

    def cluster(self, view: ClusterView, before: ClusterView | None) -> None:
        """Tell what a new view of the cluster says beyond the one before."""
        if before is None or before.state != view.state:
            reason = view.reason.as_dict() if view.reason else None
            self.emit("cluster", cluster=view.id, name=view.name, state=view.state, reason=reason)
        for host in view.hosts:
            self._host(host)

    def _host(self, host: HostView) -> None:
        told, state, late = self._hosts.get(host.id, (0, "", False))
        for phase, millis in host.phases[told:]:
            self.emit("host", host=host.id, role=host.role, state=host.state, phase=phase, millis=millis)
        if (host.late and not late) or (host.state != state and host.state != "starting"):
            self.emit(
                "host",
                host=host.id,
                role=host.role,
                state=host.state,
                waiting_for=host.waiting_for,
                late=host.late or None,
                reason=host.reason.as_dict() if host.reason else None,
                sign_off=host.sign_off,
            )
        self._hosts[host.id] = (len(host.phases), host.state, host.late)
        for memory in host.out_of_memory:
            self._killed(host, memory)

    def _killed(self, host: HostView, memory: OutOfMemory) -> None:
        key = (host.id, memory.process, memory.pid)
        if memory.kills <= self._kills.get(key, 0):
            return
        self._kills[key] = memory.kills
        message = f"the kernel killed a process of {memory.process} on {host.id} for want of memory"
        if memory.peak is not None:
            message += f"; it had reached {memory.peak >> 20} MiB"
            message += f" of at most {memory.limit >> 20} MiB" if memory.limit is not None else ""
        # Whoever looks at no progress must know of it, too: tasks are computed again, and may end the same way.
        logger.warning("%s", message)


class Step:
    """A phase under way."""

    def __init__(self, reporter: Reporter, phase: str, message: str) -> None:
        self._reporter = reporter
        self._begun = time.monotonic()
        self._over = False
        self.phase = phase
        self.message = message
        reporter.doing = message
        reporter.emit("phase", phase=phase, state="started", message=message)

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._begun, 3)

    def progress(self, message: str | None = None, done: int | None = None, total: int | None = None) -> None:
        """It got further."""
        self.message = message or self.message
        self._reporter.emit("phase", phase=self.phase, state="progress", message=self.message, done=done, total=total)

    def done(self, message: str | None = None) -> None:
        """It is over. Only the first word counts."""
        self._end("done", message or self.message)

    def fail(self, error: BaseException) -> None:
        """It is over, and badly."""
        if isinstance(error, ClusterError):
            text = error.message
        elif isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
            # Ctrl-C, or a limit of somebody further out, who says so: the name of a Python class tells nobody anything.
            text = "stopped before it was done"
        else:
            text = str(error) or type(error).__name__
        self._end("failed", text, getattr(error, "code", None))

    def _end(self, state: str, message: str, code: str | None = None) -> None:
        if not self._over:
            self._over = True
            self._reporter.emit(
                "phase", phase=self.phase, state=state, message=message, code=code, seconds=self._seconds
            )


def choose(progress: object, quiet: bool, stream: TextIO | None = None) -> Reporter:
    """The reporter for a `progress=` argument.

    Parameters
    ----------
    progress : {"auto", "rich", "plain", "json", "none"}, bool, None or callable
        A callable gets each event.
    quiet : bool
        Show nothing, whatever `progress` says, unless it is a callable.
    stream : text stream, optional
        In place of the standard error stream.
    """
    stream = stream if stream is not None else sys.stderr
    if callable(progress):
        return Reporter(_Callback(progress))
    if progress is True:
        progress = "auto"
    if quiet or progress in (False, None, "none"):
        return Reporter(_Nothing())
    if progress == "json":
        return Reporter(_JsonLines(stream))
    if progress == "plain":
        return Reporter(_PlainLines(stream))
    if progress in ("auto", "rich"):
        from towline._terminal import LiveTable, is_terminal

        if progress == "rich" or is_terminal(stream):
            return Reporter(LiveTable(stream))
        return Reporter(_PlainLines(stream))
    raise ClusterError(
        "argument_invalid",
        f"`progress` takes auto, rich, plain, json, none or a function; it was given {progress!r:.80}",
        "Change `progress`.",
    )


class _Nothing:
    def show(self, event: Event) -> None:
        pass

    def rest(self) -> None:
        pass


class _Callback(_Nothing):
    def __init__(self, function: Callable[[Event], object]) -> None:
        self._function = function

    def show(self, event: Event) -> None:
        self._function(event)


class _JsonLines(_Nothing):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: Event) -> None:
        self._stream.write(json.dumps(event, separators=(",", ":")) + "\n")
        self._stream.flush()


class _PlainLines(_Nothing):
    """Few lines, each of which stands for itself: they end in log files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started: dict[str, float] = {}

    def show(self, event: Event) -> None:
        line = self._line(event)
        if line:
            self._stream.write(f"towline: {line}\n")
            self._stream.flush()

    def _line(self, event: Event) -> str | None:
        kind = event["event"]
        if kind == "phase":
            return self._phase(event)
        if kind == "host":
            name = f"{event['role']} host {event['host']}"
            if event.get("reason"):
                return f"{name} is {event['state']}: {event['reason']['message']}"
            if event.get("late"):
                return f"{name} is late: still waiting for phase {event.get('waiting_for')}"
            if event.get("phase") == "joined":
                return f"{name} joined"
            return None
        if kind in ("note", "admission"):
            return str(event["message"])
        return None

    def _phase(self, event: Event) -> str | None:
        phase, state, now = event["phase"], event["state"], time.monotonic()
        if state == "started":
            self._started[phase] = now
            return None
        if state == "progress":
            begun = self._started.get(phase, now)
            if now - begun < _PATIENCE:
                return None
            self._started[phase] = now
            return f"{phase}: {event['message']} …"
        word = "FAILED: " if state == "failed" else ""
        return f"{phase}: {word}{event['message']} ({event.get('seconds', 0):.1f} s)"
