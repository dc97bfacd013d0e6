"""What every figure needs: a server of its own, what the kernel says of a process, and medians with their spread."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: A server that does not listen after this long never will.
START = 30.0
#: How long a server may take to end what it holds.
STOP = 30.0


@dataclass(frozen=True)
class Row:
    """One line of the table: the rounds of ours, and of what is beside it."""

    name: str
    unit: str
    ours: Sequence[float]
    peer: str
    theirs: Sequence[float] = ()
    #: What a reader must know of these figures, for instance that lines were lost.
    note: str = ""

    def ratio(self) -> float | None:
        """Ours in parts of theirs, by the medians."""
        if not self.ours or not self.theirs or not statistics.median(self.theirs):
            return None
        return statistics.median(self.ours) / statistics.median(self.theirs)

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "name": self.name, "unit": self.unit, "ours": list(self.ours), "peer": self.peer,
            "theirs": list(self.theirs), "ratio": self.ratio(), "note": self.note,
        }  # fmt: skip


@dataclass
class Bench:
    """What the rows are measured with."""

    towline: str
    helper: str
    uv: str
    work: Path
    rounds: int
    megabytes: int
    hosts: list[int]
    say: Callable[[str], None]
    #: The fake cloud.
    cloud: str = ""
    #: Where the packages of peers are unpacked; none: they could not be fetched.
    packages: Path | None = None
    #: Peers and their versions, as they were found.
    peers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """A control plane that runs."""

    process: subprocess.Popen[bytes]
    data: Path
    run: dict[str, Any]
    token: str

    def wait_ready(self) -> None:
        """Until it listens."""
        ready = self.data / "server" / "run.json"
        until = time.monotonic() + START
        while True:
            try:
                self.run = json.loads(ready.read_text())
            except (FileNotFoundError, json.JSONDecodeError):
                self.run = {}
            if self.run.get("pid") == self.process.pid:
                break
            if time.monotonic() > until or self.process.poll() is not None:
                raise SystemExit(f"the server does not start: see {self.data / 'server.log'}")
            time.sleep(0.01)
        self.token = (self.data / "server" / "admin.token").read_text().strip()


def launch(binary: str, data: Path, listeners: Sequence[str]) -> Server:
    """Start a server that was initialised, and wait until it listens."""
    words = [word for name, address in zip(("people", "agents", "blobs"), listeners, strict=True)
             for word in (f"--{name}", address)]  # fmt: skip
    with (data / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [binary, "server", "run", "--until-stdin-closes", "--data-dir", data, *words],
            stdin=subprocess.PIPE, stdout=log, stderr=log,
        )  # fmt: skip
    server = Server(process, data, {}, "")
    try:
        server.wait_ready()
    except BaseException:
        stop(process)
        raise
    return server


def stop(process: subprocess.Popen[bytes]) -> None:
    """Close its standard input, and end it if that is not enough."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP)


ANYWHERE = ("127.0.0.1:0",) * 3


def initialise(binary: str, data: Path, settings: str = "") -> None:
    """Make a server's files."""
    subprocess.run([binary, "server", "init", "--data-dir", data], check=True, stdout=subprocess.DEVNULL)
    if settings:
        drop_ins = data / "server" / "server.toml.d"
        drop_ins.mkdir()
        (drop_ins / "50-bench.toml").write_text(settings)


@contextmanager
def control_plane(binary: str, data: Path) -> Iterator[Path]:
    """A server of its own; gives the file with the profile that names it."""
    initialise(binary, data)
    server = launch(binary, data, ANYWHERE)
    try:
        profile = data / "profiles.toml"
        profile.touch(mode=0o600)
        profile.write_text(
            f'default = "bench"\n[profile.bench]\nurl = "{server.run["people_url"]}"\n'
            f'ca_file = "{server.run["ca_file"]}"\ntoken = "{server.token}"\n'
        )
        yield profile
    finally:
        stop(server.process)


def status(pid: int, word: str) -> float:
    """A size of proc(5)'s `status`, in MiB: `VmRSS` is resident now, `VmHWM` was at most."""
    return size_of(Path(f"/proc/{pid}/status").read_text(), word)


def size_of(text: str, word: str) -> float:
    """The same, from the file's text."""
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{word}:")) / 1024


def cpu(pid: int) -> float:
    """CPU seconds so far (proc(5), `utime` and `stime`)."""
    return ticks(Path(f"/proc/{pid}/stat").read_text()) / os.sysconf("SC_CLK_TCK")


def ticks(text: str) -> int:
    """`utime` and `stime` of proc(5)'s `stat`; the name in brackets may hold anything."""
    fields = text.rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of a hundred values do not exceed; one of them, never something between."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no percentile of nothing")
    rank = -(-len(ordered) * part // 100)
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def spin() -> float:
    """Millions of loop rounds in a second of one core: a machine that is busy otherwise shows here."""
    until, rounds = time.perf_counter() + 1, 0
    while time.perf_counter() < until:
        rounds += 1
    return rounds / 1e6


def wait_for(what: str, fits: Callable[[], bool], limit: float) -> float:
    """Seconds until it fits; a sentence and the end if that takes too long."""
    begun = time.monotonic()
    while not fits():
        if time.monotonic() - begun > limit:
            raise SystemExit(f"after {limit:.0f} s still not there: {what}")
        time.sleep(0.01)
    return time.monotonic() - begun
