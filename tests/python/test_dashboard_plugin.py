"""Dask's pages on a local socket, with Dask's real scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker

from scheduler_parts import load

plugin = load("towline_dashboard")
activities = load("towline_scheduler")

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


@contextlib.asynccontextmanager
async def pages(folder: Path) -> AsyncIterator[tuple[Scheduler, Any, Any]]:
    at = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with Scheduler(port=0, protocol="tcp", host="127.0.0.1", **at) as scheduler:
        activity = activities.Activity(scheduler, lambda _: "client")
        activity.attach()
        dashboard = plugin.start(scheduler, str(folder))
        assert dashboard is not None
        async with Worker(scheduler.address, nthreads=1, dashboard=False, name="ho-abc-0"):
            yield scheduler, activity, dashboard
        dashboard.stop()
        dashboard.stop()


async def get(folder: Path, path: str, **headers: str) -> str:
    """The answer's head and body; of a websocket the head alone."""
    directory = os.open(folder, os.O_PATH)
    peer = socket.socket(socket.AF_UNIX)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, f"/proc/self/fd/{directory}/{plugin.SOCKET}")
    os.close(directory)
    reader, writer = await asyncio.open_connection(sock=peer)
    said = {"Host": plugin.ORIGIN, "Connection": "close"} | headers
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in said.items()), "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = "" if "Upgrade" in headers else (await reader.read()).decode()
    writer.close()
    return head + body


def test_the_pages_are_there_for_nobody_else_and_cost_nothing_before(tmp_path: Path) -> None:
    async def served() -> None:
        folder = tmp_path / ("d" * 120)
        folder.mkdir()
        async with pages(folder) as (scheduler, _, dashboard):
            # The group may be its agent's; the folder above says whether it gets here. Others never do.
            assert stat.S_IMODE((folder / plugin.SOCKET).stat().st_mode) & 0o007 == 0
            assert dashboard.opening is None
            first, second = await asyncio.gather(get(folder, "/status"), get(folder, "/individual-plots.json"))
            assert " 200 " in first and "Dask Diagnostic UI" in first
            assert '"/individual-task-stream"' in second
            assert " 404 " in await get(folder, "/proxy/1/127.0.0.1/x")
            assert '"workers": 1' in await get(folder, "/json/counts.json")
            # The port that Dask insists on still has nothing.
            reader, writer = await asyncio.open_connection("127.0.0.1", scheduler.http_server.port)
            writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b" 404 " in await reader.readline()
            writer.close()

    run(served)


def test_only_the_proxys_origin_gets_a_websocket(tmp_path: Path) -> None:
    async def asked() -> None:
        async with pages(tmp_path):
            for origin, answer in [
                (f"http://{plugin.ORIGIN}", "101"),
                ("http://127.0.0.1:8787", "403"),
                ("https://example.com", "403"),
            ]:
                told = await get(tmp_path, "/status/ws", Origin=origin, **UPGRADE)
                # Bokeh wants its own token next, but has let it in.
                assert f" {answer} " in told.splitlines()[0], origin

    run(asked)


def test_to_look_is_not_to_work(tmp_path: Path) -> None:
    async def looked() -> None:
        async with pages(tmp_path) as (scheduler, activity, _):
            async with Client(scheduler.address, asynchronous=True) as client:
                await client.submit(int, 1, pure=False)
            before = activity.statement()
            for path in ("/status", "/tasks", "/graph", "/workers", "/profile", "/system", "/info/main/workers.html"):
                assert " 200 " in await get(tmp_path, path), path
            after = activity.statement()
            assert {k: after[k] for k in ("moves", "tasks", "clients")} == {
                k: before[k] for k in ("moves", "tasks", "clients")
            }
            assert await activity.close(before["moves"], "idle")
            assert " 200 " in await get(tmp_path, "/status"), "what has closed can still be looked at"

    run(looked)


def test_without_bokeh_one_page_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "bokeh" or name.startswith("distributed.dashboard"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)

    async def asked() -> None:
        async with pages(tmp_path):
            told = await get(tmp_path, "/status")
            assert " 503 " in told and "pip install 'bokeh" in told and "make a new cluster" in told

    run(asked)


def test_a_folder_that_is_gone_harms_no_scheduler(tmp_path: Path) -> None:
    async def started() -> None:
        assert plugin.start(None, str(tmp_path / "nowhere")) is None

    run(started)
