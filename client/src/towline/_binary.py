"""The `towline` binary: finding it, checking its version, and talking JSON with it over stdin and stdout.

Owns every child process that this package starts. Must not put anything secret into arguments or environment: scans
go over stdin, keys stay in files that the binary makes. Driven by `_preparation.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from towline._errors import ClusterError, within
from towline._version import __version__

__all__ = ["Binary", "locate"]

#: One line of JSON from the binary; real answers are a few kilobytes.
_LINE_LIMIT = 16 * 1024 * 1024
#: How much of the binary's stderr is kept for an error message.
_STDERR_KEPT = 4096
#: How long a child may take to end after SIGTERM.
_END_SECONDS = 5.0

_INSTALL = "Install the binary of the same version, or name it with the environment variable TOWLINE_BINARY."


def locate(environ: Mapping[str, str] | None = None, executable: str | None = None) -> Path:
    """Find the binary: `TOWLINE_BINARY`, beside the running interpreter, on `PATH`.

    Raises
    ------
    ClusterError
        ``binary_missing`` when it is nowhere.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("TOWLINE_BINARY")
    if named:
        path = Path(named).expanduser()
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise ClusterError("binary_missing", f"TOWLINE_BINARY names {path}, which is not a program", _INSTALL)
        return path.absolute()
    beside = Path(executable or sys.executable).parent / "towline"
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which("towline", path=environ.get("PATH"))
    # A Python console script of another project may carry the name; the version check tells.
    if found is None:
        raise ClusterError("binary_missing", "the `towline` binary is not on this machine", _INSTALL)
    return Path(found).absolute()


class Binary:
    """One `towline` binary.

    Parameters
    ----------
    path : Path
        The program.
    profile : str or None
        The profile that its verbs use; None lets it take the default.
    """

    def __init__(self, path: Path, profile: str | None = None) -> None:
        self.path = path
        self._profile = profile

    async def check_version(self) -> None:
        """Refuse a binary of another version: the verbs below are private to one version."""
        answer = await self.json("version", "--json", what="its version", seconds=20)
        version = answer.get("version")
        if version != __version__:
            raise ClusterError(
                "version_mismatch",
                f"the Python package is version {__version__}, the binary {self.path} is version {version}",
                "Install both from the same release, or point TOWLINE_BINARY at the right binary.",
            )

    async def json(self, *arguments: str, what: str, seconds: float) -> dict[str, Any]:
        """Run a verb that prints one JSON object, and return it."""
        last: dict[str, Any] = {}

        def keep(value: dict[str, Any]) -> None:
            last.update(value)

        await self.lines(arguments, keep, stdin=b"", what=what, seconds=seconds, whole=True)
        return last

    async def lines(
        self,
        arguments: tuple[str, ...],
        handle: Callable[[dict[str, Any]], None],
        *,
        stdin: bytes,
        what: str,
        seconds: float,
        whole: bool = False,
    ) -> None:
        """Run a verb, give it `stdin`, and hand each JSON line to `handle` as it comes.

        Parameters
        ----------
        arguments : tuple of str
            The verb and its options.
        handle : callable
            Called with each object.
        stdin : bytes
            Written to the child, then closed.
        what : str
            What is waited for, for error messages.
        seconds : float
            The limit for the whole run.
        whole : bool
            The output is one object, possibly over several lines.
        """
        limit = ClusterError(
            "binary_timeout",
            f"`towline {' '.join(arguments)}` did not finish in {seconds:.0f} s while waiting for {what}",
            "Run it by hand to see what it waits for; `towline doctor` checks the usual reasons.",
        )
        await within(self._run(arguments, handle, stdin, what, whole), seconds=seconds, error=limit)

    async def _run(
        self,
        arguments: tuple[str, ...],
        handle: Callable[[dict[str, Any]], None],
        stdin: bytes,
        what: str,
        whole: bool,
    ) -> None:
        child = await self._start(arguments)
        complaints = asyncio.create_task(_tail(child.stderr))
        feeding = asyncio.create_task(_feed(child.stdin, stdin))
        try:
            assert child.stdout is not None
            refusal = await _read(child.stdout, handle, whole, self.path)
            code = await child.wait()
            await feeding
            text = await complaints
        finally:
            await _end(child)
            for task in (complaints, feeding):
                task.cancel()
            await asyncio.gather(complaints, feeding, return_exceptions=True)
        if refusal is not None:
            raise refusal
        if code != 0:
            raise ClusterError(
                "binary_failed",
                f"`towline {' '.join(arguments)}` ended with status {code} while asked for {what}: "
                f"{text or 'it gave no reason'}",
                "Run it by hand, or run `towline doctor`.",
            )

    def open(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a verb that goes on until its standard input is closed; whoever starts it ends it.

        Raises
        ------
        OSError
            The program could not be started.
        """
        return subprocess.Popen(
            [str(self.path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environ(),
        )

    def _environ(self) -> dict[str, str]:
        environ = dict(os.environ)
        if self._profile is not None:
            environ["TOWLINE_PROFILE"] = self._profile
        return environ

    async def _start(self, arguments: tuple[str, ...]) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                str(self.path),
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environ(),
                limit=_LINE_LIMIT,
            )
        except OSError as error:
            raise ClusterError(
                "binary_unusable", f"the program {self.path} could not be started: {error}", _INSTALL
            ) from error


async def _feed(pipe: asyncio.StreamWriter | None, data: bytes) -> None:
    assert pipe is not None
    # A child that fails early closes its end; its own words say why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.write(data)
        await pipe.drain()
    pipe.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await pipe.wait_closed()


async def _tail(pipe: asyncio.StreamReader | None) -> str:
    assert pipe is not None
    kept = b""
    while chunk := await pipe.read(65536):
        kept = (kept + chunk)[-_STDERR_KEPT:]
    return kept.decode("utf-8", "replace").strip()


async def _read(
    pipe: asyncio.StreamReader, handle: Callable[[dict[str, Any]], None], whole: bool, path: Path
) -> ClusterError | None:
    """Hand objects on; return the error that the binary told of, if it did."""
    refusal: ClusterError | None = None
    if whole:
        text = await pipe.read(_LINE_LIMIT)
        while chunk := await pipe.read(_LINE_LIMIT):
            text += chunk
        return _take(text, handle, path) if text.strip() else None
    while True:
        try:
            line = await pipe.readline()
        except ValueError as error:
            raise _not_json(path) from error
        if not line:
            return refusal
        if line.strip():
            refusal = _take(line, handle, path) or refusal


def _take(text: bytes, handle: Callable[[dict[str, Any]], None], path: Path) -> ClusterError | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _not_json(path) from error
    if not isinstance(value, dict):
        raise _not_json(path)
    refused = value.get("event") == "error" or ("code" in value and "message" in value and "event" not in value)
    if refused:
        return ClusterError(
            str(value.get("code", "unknown")), str(value.get("message", "")), str(value.get("remedy") or "")
        )
    handle(value)
    return None


def _not_json(path: Path) -> ClusterError:
    return ClusterError(
        "binary_unusable", f"{path} does not speak as Towline's binary: its output is not what was asked for", _INSTALL
    )


async def _end(child: asyncio.subprocess.Process) -> None:
    """End a child that is still there: SIGTERM, then SIGKILL. Shielded, as the caller may be cancelled."""
    if child.returncode is not None:
        return

    async def ladder() -> None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            await asyncio.wait_for(child.wait(), _END_SECONDS)
        except (asyncio.TimeoutError, TimeoutError):
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    await asyncio.shield(ladder())
