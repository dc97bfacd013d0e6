"""Progress in a terminal: one live table, drawn by rich. Only ever imported where it is shown."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

__all__ = ["LiveTable", "is_terminal"]

#: More hosts than this are counted, not listed.
_HOSTS_LISTED = 12
_MARKS = {"done": Text("✓", "green"), "failed": Text("✗", "red")}


def is_terminal(stream: TextIO) -> bool:
    """Whether a live table can be drawn on a stream."""
    console = Console(file=stream)
    return console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter


class LiveTable:
    """Phases with their seconds, and hosts with how far they got."""

    def __init__(self, stream: TextIO) -> None:
        self._phases: dict[str, dict[str, Any]] = {}
        self._hosts: dict[str, dict[str, Any]] = {}
        self._title = "towline"
        self._spinner = Spinner("dots")
        console = Console(file=stream, force_terminal=True)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, transient=False)
        self._on = False

    def show(self, event: dict[str, Any]) -> None:
        """Take one event; the picture is drawn by rich's own thread."""
        kind = event["event"]
        if kind == "phase":
            self._phases[event["phase"]] = event
        elif kind == "host":
            self._hosts.setdefault(event["host"], {}).update(event)
        elif kind == "cluster":
            self._title = f"{event['name']}  {event['state']}"
        elif kind in ("note", "admission"):
            self._live.console.print(f"towline: {event['message']}", markup=False, highlight=False)
        if kind == "phase" and event["state"] == "started" and not self._on:
            self._on = True
            self._live.start()

    def rest(self) -> None:
        """Leave the last picture and give the terminal back; what comes later starts a new picture below."""
        if self._on:
            self._on = False
            self._live.stop()
        self._phases.clear()
        self._hosts.clear()

    def _render(self) -> RenderableType:
        phases = Table.grid(padding=(0, 1))
        for name, event in list(self._phases.items()):
            mark: RenderableType = _MARKS.get(event["state"], self._spinner)
            phases.add_row(mark, Text(name, "bold"), Text(_message(event)), Text(_seconds(event), "dim"))
        hosts = Table.grid(padding=(0, 1))
        listed = list(self._hosts.items())
        for name, event in listed[:_HOSTS_LISTED]:
            hosts.add_row("  ", Text(event["role"], "cyan"), Text(name, "dim"), _standing(event))
        if len(listed) > _HOSTS_LISTED:
            up = sum(event.get("phase") == "joined" for _, event in listed)
            hosts.add_row("  ", "", Text(f"and {len(listed) - _HOSTS_LISTED} more; {up} joined in all", "dim"), "")
        return Group(Text(self._title, "bold blue"), phases, hosts)


def _message(event: dict[str, Any]) -> str:
    message = str(event.get("message", ""))
    if event["state"] == "progress" and event.get("total"):
        message += f"  {event.get('done', 0)}/{event['total']}"
    return message


def _seconds(event: dict[str, Any]) -> str:
    return f"{event['seconds']:.1f} s" if "seconds" in event else ""


def _standing(event: dict[str, Any]) -> Text:
    if event.get("reason"):
        return Text(f"{event['state']}: {event['reason']['message']}", "red")
    if event.get("state") in ("ending", "ended"):
        return Text(event["state"], "dim")
    if event.get("late"):
        return Text(f"late: waiting for {event.get('waiting_for')}", "yellow")
    return Text(str(event.get("phase", event["state"])), "green" if event.get("phase") == "joined" else "")
