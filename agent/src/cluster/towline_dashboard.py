"""Dask's pages of the scheduler, on a local socket instead of a port.

Dask's pages have no password, and a port on the loopback is open to every user of a machine. So the pages are served on
a UNIX socket that this user alone may open; the agent's gateway brings people there who show a certificate of this
cluster. Nothing is imported and nothing runs before somebody knocks. Then Bokeh is imported in a thread, so that tasks
go on meanwhile; until the pages are there, connections wait in the socket's queue.

To look is not to work: nothing here passes the scheduler's handlers, which `towline_scheduler.py` counts.
Loaded by `towline_preload.py`, in the scheduler only.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from types import SimpleNamespace
from typing import Any

import dask
from distributed import Scheduler
from tornado import web
from tornado.httpserver import HTTPServer

logger = logging.getLogger("distributed.towline")

#: The socket's name in the launch's folder, as the agent knows it.
SOCKET = "dashboard.sock"
#: Connections that may wait for the import.
BACKLOG = 64
#: The origin that the person's proxy writes into every request that it lets through. Bokeh takes a websocket of no other.
ORIGIN = "towline-dashboard"
#: Dask's own pages, without the proxy to workers: theirs are empty.
ROUTES = (
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.scheduler.json",
    "distributed.http.health",
    "distributed.http.statics",
)
PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>No dashboard</title></head>
<body style="font-family: sans-serif; max-width: 40em; margin: 4em auto"><h1>No dashboard</h1>
<p>{what}</p><p>{remedy}</p></body></html>
"""


class Dashboard:
    """The pages of one scheduler, from the first knock on."""

    def __init__(self, scheduler: Scheduler, folder: str) -> None:
        self.scheduler = scheduler
        self.socket = listen(folder)
        self.opening: asyncio.Task[None] | None = None
        self.server: HTTPServer | None = None
        self.bokeh: Any = None
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(self.socket, self._knocked)

    def _knocked(self) -> None:
        # Whoever knocked stays in the queue until there is something to show.
        self.loop.remove_reader(self.socket)
        self.opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        try:
            await self.loop.run_in_executor(None, load)
            application = self._pages()
        except ImportError as error:
            logger.info("There is no dashboard: %s", error)
            application = no_pages(str(error))
        except Exception as error:
            logger.exception("The dashboard cannot be made")
            application = no_pages(repr(error))
        self.server = HTTPServer(application)
        self.server.add_socket(self.socket)

    def _pages(self) -> web.Application:
        """Dask's own application, as the scheduler would make it for a port."""
        from distributed.dashboard.scheduler import connect
        from distributed.http.routing import RoutingApplication
        from distributed.http.scheduler.info import IndividualPlots
        from distributed.http.utils import get_handlers

        class Plots(IndividualPlots):  # type: ignore[misc]
            """The list of plots for JupyterLab, which Dask would look for among the pages on the port."""

            def initialize(self, pages: Any) -> None:
                self.server, self.extra = SimpleNamespace(http_application=pages), {}

        pages = RoutingApplication(get_handlers(self.scheduler, list(ROUTES), prefix="/"))
        pages.add_handlers(".*", [(r"/individual-plots.json", Plots, {"pages": pages})])
        key = "distributed.scheduler.dashboard.bokeh-application"
        with dask.config.set({key: {**dask.config.get(key), "allow_websocket_origin": [ORIGIN]}}):
            connect(pages, self.scheduler.http_server, self.scheduler)
        self.bokeh = pages.applications[-1]
        return pages

    def stop(self) -> None:
        """No more pages; done twice it does nothing."""
        if self.opening is None:
            self.loop.remove_reader(self.socket)
        elif not self.opening.done():
            self.opening.cancel()
        if self.server is not None:
            self.server.stop()
            self.server = None
        if self.bokeh is not None:
            with contextlib.suppress(Exception):
                self.bokeh.stop(wait=False)
            self.bokeh = None
        self.socket.close()


def load() -> None:
    """Import what the pages need. In a thread: it takes a second or two."""
    for name in ("distributed.dashboard.scheduler", "distributed.http.routing", *ROUTES):
        importlib.import_module(name)


def no_pages(why: str) -> web.Application:
    """One page that says why there are no others."""
    # Known to Dask itself, and without any import of Bokeh.
    from distributed.versions import BOKEH_REQUIREMENT

    what = f"The cluster's environment has no usable Bokeh, which draws Dask's dashboard ({web_text(why)})."
    remedy = (
        f"Install it where the cluster is made from (pip install '{web_text(str(BOKEH_REQUIREMENT))}'), "
        "then make a new cluster."
    )

    class NoPages(web.RequestHandler):
        def get(self) -> None:
            self.set_status(503)
            self.finish(PAGE.format(what=what, remedy=remedy))

    return web.Application([(r".*", NoPages)])


def web_text(text: str) -> str:
    """A text that shows as itself in a page."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def listen(folder: str) -> socket.socket:
    """A socket that this user alone may open, in a folder whose path may be longer than a socket address can be."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path = f"/proc/self/fd/{directory}/{SOCKET}"
        # A scheduler before this one may have left its own.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        # The file takes the socket's mode, so that it is nobody else's for no moment. The folder above it decides whether
        # the group, in which the agent is where it is another user, gets here at all.
        os.fchmod(peer.fileno(), 0o660)
        peer.bind(path)
        peer.listen(BACKLOG)
        return peer
    except BaseException:
        peer.close()
        raise
    finally:
        os.close(directory)


def start(scheduler: Scheduler, folder: str) -> Dashboard | None:
    """Serve from now on. A cluster without pages is a cluster."""
    try:
        return Dashboard(scheduler, folder)
    except OSError as error:
        logger.warning("There is no dashboard: its socket cannot be made: %s", error)
        return None
