"""What happens on the person's machine before a host starts: scan, solve, pack, upload, keys.

Owns the conversation with the binary. Must not talk to the control plane: the binary does so for environments.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towline._binary import Binary
from towline._errors import ClusterError, within
from towline._progress import Reporter, Step

__all__ = ["ClientKey", "Environment", "Keys", "admit", "client_key", "joined_key", "new_keys", "prepare", "sign"]

_SCAN_SECONDS = 120.0
#: Solving, packing and uploading: a first upload over a slow line is minutes.
_PREPARE_SECONDS = 1800.0
_KEY_SECONDS = 30.0

_SENTENCES = {
    "solve": "choosing packages for the hosts",
    "pack": "packing local code",
    "upload": "uploading what is missing",
}


@dataclass(frozen=True)
class Environment:
    """A prepared environment: everything it needs is in the blob store."""

    spec: Mapping[str, Any]
    packages: int
    uploaded_bytes: int


@dataclass(frozen=True)
class ClientKey:
    """A client's key on this machine, and the owner's admission of it or the code by which to ask for one."""

    id: str
    spki: str
    key_file: Path
    admission: Mapping[str, Any] | None = None
    code: str | None = None

    def request(self) -> dict[str, Any]:
        """What the control plane is told."""
        return {"client": self.id, "spki": self.spki, "admission": self.admission}


@dataclass(frozen=True)
class Keys:
    """A new cluster's owner and client keys, before the cluster has an id."""

    handle: str
    owner_key: str
    client: ClientKey


async def prepare(binary: Binary, reporter: Reporter) -> Environment:
    """Make the environment of this very interpreter available to hosts.

    The scan is taken anew each time, so that an edited local module reaches the next cluster of the same process.
    """
    with reporter.step("scan", "reading the packages here") as step:
        scan = await within(
            # A thread of the loop's pool: reading metadata of 500 packages takes up to a second.
            asyncio.get_running_loop().run_in_executor(None, _scan),
            seconds=_SCAN_SECONDS,
            error=ClusterError(
                "scan_timeout",
                f"reading the packages of this interpreter took more than {_SCAN_SECONDS:.0f} s",
                "Is its folder on a slow network drive? `towline env scan` shows what it reads.",
            ),
        )
        step.done(f"{len(scan.get('distributions', ()))} packages here")
    ready: dict[str, Any] = {}
    steps = _Steps(reporter)

    def handle(event: dict[str, Any]) -> None:
        if event.get("event") == "progress":
            steps.progress(event)
        elif event.get("event") == "ready":
            ready.update(event)

    try:
        await binary.lines(
            ("env", "prepare", "--json-lines"),
            handle,
            stdin=json.dumps(scan).encode(),
            what="the environment to be prepared",
            seconds=_PREPARE_SECONDS,
        )
        if not isinstance(ready.get("environment"), dict):
            raise ClusterError(
                "binary_failed", "the binary prepared no environment and gave no reason", "Run `towline env scan`."
            )
    except BaseException as error:
        steps.fail(error)
        raise
    steps.done()
    environment = Environment(ready["environment"], int(ready.get("packages", 0)), int(ready.get("uploaded_bytes", 0)))
    reporter.emit(
        "environment",
        digest=environment.spec.get("digest"),
        packages=environment.packages,
        uploaded_bytes=environment.uploaded_bytes,
    )
    return environment


async def new_keys(binary: Binary) -> Keys:
    """Have the owner key and a client key made; they lie under a handle until the cluster has an id."""
    answer = await binary.json("keys", "new", "--json", what="new keys", seconds=_KEY_SECONDS)
    try:
        client = answer["client"]
        key = ClientKey(str(client["id"]), str(client["spki"]), Path(client["key_file"]))
        return Keys(str(answer["handle"]), str(answer["owner_key"]), key)
    except (KeyError, TypeError) as error:
        raise _misspoken("keys new") from error


async def admit(binary: Binary, keys: Keys, cluster: str) -> ClientKey:
    """Have the owner key sign the client's admission to the cluster that now exists."""
    answer = await binary.json(
        "keys",
        "admit",
        "--handle",
        keys.handle,
        "--cluster",
        cluster,
        "--json",
        what="the client's admission",
        seconds=_KEY_SECONDS,
    )
    return _admitted(answer, "keys admit")


async def client_key(binary: Binary, cluster: str) -> ClientKey:
    """Have a fresh client key made and admitted to an existing cluster whose owner key is on this machine."""
    answer = await binary.json(
        "keys",
        "client",
        "--cluster",
        cluster,
        "--json",
        what="a client key",
        seconds=_KEY_SECONDS,
    )
    return _admitted(answer, "keys client")


async def joined_key(binary: Binary, cluster: str) -> ClientKey:
    """Find, or have made, the key with which this machine asks to join a cluster; the same for all its processes."""
    answer = await binary.json("keys", "ask", "--cluster", cluster, "--json", what="a client key", seconds=_KEY_SECONDS)
    try:
        return ClientKey(str(answer["client"]), str(answer["spki"]), Path(answer["key_file"]), code=str(answer["code"]))
    except (KeyError, TypeError) as error:
        raise _misspoken("keys ask") from error


async def sign(binary: Binary, cluster: str, code: str) -> str:
    """Have the owner key admit the client of this code to a cluster; the client's name."""
    answer = await binary.json(
        "cluster", "admit", cluster, "--json", "--", code, what="the client's admission", seconds=2 * _KEY_SECONDS
    )
    if not isinstance(answer.get("client"), str):
        raise _misspoken("cluster admit")
    return str(answer["client"])


def _admitted(answer: Mapping[str, Any], verb: str) -> ClientKey:
    try:
        return ClientKey(
            str(answer["client"]), str(answer["spki"]), Path(answer["key_file"]), dict(answer["admission"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misspoken(verb) from error


def _misspoken(verb: str) -> ClusterError:
    return ClusterError(
        "binary_unusable",
        f"`towline {verb}` did not answer as expected",
        "Install the Python package and the binary from the same release.",
    )


def _scan() -> dict[str, Any]:
    scan = importlib.import_module("towline._scan").scan()
    if not isinstance(scan, dict):
        raise ClusterError("scan_failed", "the scan of this interpreter gave no answer", "Run `towline env scan`.")
    return scan


class _Steps:
    """The binary's phases, one after the other, as steps."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._step: Step | None = None

    def progress(self, event: Mapping[str, Any]) -> None:
        phase = str(event.get("phase", "solve"))
        message = str(event.get("message") or _SENTENCES.get(phase, phase))
        if phase == "scan":
            # It reads the scan that we gave it: not a phase of its own for a person.
            return
        if self._step is None or self._step.phase != phase:
            self.done()
            self._step = Step(self._reporter, phase, message)
        self._step.progress(message, _number(event.get("done")), _number(event.get("total")))

    def done(self) -> None:
        if self._step is not None:
            self._step.done()
            self._step = None

    def fail(self, error: BaseException) -> None:
        if self._step is None:
            self._step = Step(self._reporter, "solve", _SENTENCES["solve"])
        self._step.fail(error)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
