"""Log shipping to stores over HTTP: the agent's sinks against the fake cloud's strict faces, beside syslog-ng's output.

A face refuses what the documented service would refuse, keeps the numbers of the lines, and runs in its own process,
whose CPU is not counted. syslog-ng writes the same rows to the same faces; AWS's signature it cannot make.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import logs
from logs import LINE, STOP, Shipped, reap
from parts import Bench, Row, percentile, status

#: A host with few lines: one in so many seconds, for so long.
EVERY, TRICKLE = 0.02, 33.0
#: How long the shipper waits between two requests for lines that come one by one (`BatchLimits::REMOTE`).
INTERVAL = 5.5

#: A peer that sends nothing for so long has no more.
SILENCE = 5.0

KEYS = "[default]\naws_access_key_id = AKIDTEST\naws_secret_access_key = test/secret+key\n"

#: What syslog-ng is told for each face it can write to: the path, its headers, and the row as JSON.
AZURE = (
    "/dataCollectionRules/dcr-test/streams/Custom-Towline_CL?api-version=2023-01-01",
    '"Content-Type: application/json", "Authorization: Bearer test-token"',
    ("[", "]"),
    "$(format-json --scope none TimeGenerated=$R_ISODATE Cluster=bench Stream=bench Id=$SEQNUM Message=$MESSAGE)",
)
OTLP = (
    "/v1/logs",
    '"Content-Type: application/json"',
    (
        '{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"dask"}}]},'
        '"scopeLogs":[{"logRecords":[',
        "]}]}]}",
    ),
    "$(format-json --scope none timeUnixNano='${R_UNIXTIME}000000000' observedTimeUnixNano='${R_UNIXTIME}000000000'"
    " body.stringValue=$MESSAGE)",
)

CONFIGURATION = """\
@version: 3.38
options {{ stats-freq(0); threaded(yes); }};
source s {{ file("{source}" flags(no-parse) log-fetch-limit(1000) log-iw-size(20000)); }};
destination d {{
  http(
    url("{url}") method("POST") headers({headers})
    batch-lines(8192) batch-bytes(900000) batch-timeout(500) workers(1)
    body-prefix('{prefix}') body-suffix('{suffix}') delimiter(",")
    body("{body}")
  );
}};
log {{ source(s); destination(d); flags(flow-control); }};
"""

INSTALL = "`apt-get download` must reach Debian's packages"


@dataclass(frozen=True)
class Store:
    """A face, how our sink is told of it, what lets it in, and what syslog-ng is told."""

    name: str
    face: str
    sink: dict[str, str]
    secret: str
    peer: tuple[str, str, tuple[str, str], str] | None


STORES = (
    Store("CloudWatch", "cloudwatch", {"kind": "cloudwatch", "region": "eu-central-1", "group": "/towline/test"},
          KEYS, None),
    Store("Azure Monitor", "azure_logs", {"kind": "azure_monitor", "rule": "dcr-test", "table": "Custom-Towline_CL"},
          "test-token", AZURE),
    Store("OTLP", "otlp", {"kind": "otlp"}, "any", OTLP),
)  # fmt: skip


@dataclass(frozen=True)
class Face:
    """A face of a fake cloud that runs."""

    address: str

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}"

    def call(self, path: str, body: Any = None) -> Any:
        """Ask it something, or tell it something."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("PUT", path, json.dumps(body), {"Content-Type": "application/json"})
        with contextlib.closing(connection):
            text = connection.getresponse().read()
        return json.loads(text) if text else None

    def lost_and_doubled(self, count: int) -> tuple[int, int]:
        """How many of the numbered lines it has not, and how many again."""
        found = self.call("/_fake/numbers")
        return count - len(set(found)), len(found) - len(set(found))


@contextlib.contextmanager
def cloud(program: str, face: str) -> Iterator[Face]:
    """A fake cloud for one round."""
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = json.loads(process.stdout.readline())[face]
        one = Face(address)
        one.call("/_fake/rules", {"numbers": True})
        try:
            yield one
        finally:
            process.stdin.close()
            process.wait(STOP)


def told(store: Store, face: Face, folder: Path) -> list[str]:
    """The sink and its secret, as the helper takes them."""
    secret = folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text(store.secret)
    return [json.dumps(store.sink | {"endpoint": face.url}), str(secret)]


def ours(bench: Bench, store: Store, source: Path, count: int, folder: Path) -> Shipped:
    """Through the agent's own shipper."""
    spool = folder / "bench.log"
    shutil.copyfile(source, spool)
    with spool.open("rb+") as copy:
        os.fsync(copy.fileno())
    with cloud(bench.cloud, store.face) as face:
        words = [bench.helper, "ship", str(spool), *told(store, face, folder)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
        used = reap(process)
        if not said["complete"]:
            raise SystemExit(f"the shipper left {said['left']} bytes after {said['seconds']:.0f} s")
        return Shipped(said["seconds"], used, said["peak_mib"], *face.lost_and_doubled(count))


def syslog_ng(bench: Bench, store: Store, source: Path, count: int, folder: Path) -> Shipped:
    """Through syslog-ng, until it has no more to send."""
    assert store.peer is not None
    assert bench.packages is not None
    path, headers, (prefix, suffix), body = store.peer
    root, configuration = bench.packages, folder / "syslog-ng.conf"
    with cloud(bench.cloud, store.face) as face:
        configuration.write_text(
            CONFIGURATION.format(
                source=source, url=face.url + path, headers=headers, prefix=prefix, suffix=suffix, body=body
            )
        )
        words = [
            str(root / "usr/sbin/syslog-ng"), "-F", "--no-caps", "-f", str(configuration),
            "-R", str(folder / "persist"), "-p", str(folder / "pid"), "-c", str(folder / "ctl"),
            "--module-path", str(next(root.glob("usr/lib/syslog-ng/3*"))),
        ]  # fmt: skip
        begun = time.monotonic()
        process = subprocess.Popen(words, env=os.environ | {"LD_LIBRARY_PATH": libraries(root)})
        try:
            wall, before, still = 0.0, 0, 0.0
            # It has sent all that it will when nothing came for seconds; its work ended with the last line.
            while before < count and still < SILENCE and process.poll() is None:
                time.sleep(0.05)
                there = int(face.call("/_fake/count"))
                now = time.monotonic() - begun
                if there != before:
                    before, wall = there, now
                still = now - wall
            peak = status(process.pid, "VmHWM")
            process.send_signal(signal.SIGTERM)
            return Shipped(wall, reap(process), peak, *face.lost_and_doubled(count))
        finally:
            if process.returncode is None:
                process.kill()
                process.wait(STOP)


def version(root: Path) -> str:
    """What the folder of its modules is called."""
    return next(root.glob("usr/lib/syslog-ng/3*")).name


def libraries(root: Path) -> str:
    """Where the libraries of unpacked packages lie."""
    triple = f"{os.uname().machine}-linux-gnu"
    return ":".join(str(root / part) for part in ("usr/lib/syslog-ng", f"usr/lib/{triple}", f"lib/{triple}"))


def trickle(bench: Bench, store: Store, folder: Path) -> list[float]:
    """Seconds from each printed line until it is acknowledged: until the durable cursor has passed it."""
    spool, cursor = folder / "bench.log", folder / "bench.cursor"
    spool.touch()
    with cloud(bench.cloud, store.face) as face:
        words = [bench.helper, "follow", str(spool), *told(store, face, folder)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        waiting: list[tuple[int, float]] = []
        found: list[float] = []
        begun, length, number = time.monotonic(), 0, 0
        with spool.open("ab", buffering=0) as out:
            while time.monotonic() - begun < TRICKLE + 3 * INTERVAL and (waiting or number * EVERY < TRICKLE):
                now = time.monotonic() - begun
                if number * EVERY < TRICKLE and now >= number * EVERY:
                    length += out.write(f"{number:09d} a line of a host that prints little\n".encode())
                    waiting.append((length, time.monotonic()))
                    number += 1
                place = offset(cursor)
                while waiting and waiting[0][0] <= place:
                    found.append(time.monotonic() - waiting.pop(0)[1])
                time.sleep(0.002)
        process.stdin.close()
        reap(process)
        if waiting:
            raise SystemExit(f"{len(waiting)} lines were not acknowledged")
    return found


def offset(cursor: Path) -> int:
    """How far a cursor's newest slot is."""
    try:
        slots = re.findall(r"towline-cursor-0 (\d+) \S+ \{\"offset\":(\d+),", cursor.read_text())
    except FileNotFoundError:
        return 0
    return max(((int(sequence), int(place)) for sequence, place in slots), default=(0, 0))[1]


def rows(bench: Bench) -> list[Row]:
    """All stores, ours and the peer's in turns."""
    source = bench.work / "stores.log"
    count = logs.generate(source, bench.megabytes)
    if bench.packages is not None:
        bench.peers["syslog-ng"] = version(bench.packages)
    found: list[Row] = []
    for store in STORES:
        mine: list[Shipped] = []
        theirs: list[Shipped] = []
        for number in range(bench.rounds):
            for one, taken in ((ours, mine), (syslog_ng, theirs)):
                if one is syslog_ng and (store.peer is None or bench.packages is None):
                    continue
                with folder(bench.work / f"stores-{store.face}-{number}") as place:
                    taken.append(one(bench, store, source, count, place))
                last = taken[-1]
                bench.say(f"  {store.name}, {one.__name__}: {count} lines in {last.wall:.2f} s, {last.cpu:.2f} CPU-s, "
                          f"peak {last.peak:.0f} MiB, {last.lost} lost, {last.doubled} doubled")  # fmt: skip
        with folder(bench.work / f"trickle-{store.face}") as place:
            late = trickle(bench, store, place)
        found += judge(store, mine, theirs, late, count, bench.packages is not None)
    source.unlink()
    return found


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A folder for one round."""
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def judge(
    store: Store, mine: Sequence[Shipped], theirs: Sequence[Shipped], late: Sequence[float], count: int, there: bool
) -> list[Row]:
    """The rows of what was measured. Pure."""
    peer = "syslog-ng, file to http" if there else f"syslog-ng is not there: {INSTALL}"
    if store.peer is None:
        peer = "nothing comparable: syslog-ng cannot sign"
    size, name = count * LINE / 1e6, f"logs to {store.name}"
    late_ms = [1000 * seconds for seconds in late]
    return [
        Row(f"{name}: megabytes for a second of CPU", "MB", [size / one.cpu for one in mine], peer,
            [size / one.cpu for one in theirs]),
        Row(f"{name}: peak resident memory", "MiB", [one.peak for one in mine], peer, [one.peak for one in theirs]),
        Row(f"{name}: lines lost, each round", "lines", [one.lost for one in mine], peer, [one.lost for one in theirs]),
        Row(f"{name}: lines doubled, each round", "lines", [one.doubled for one in mine], peer,
            [one.doubled for one in theirs]),
        Row(f"{name}: line to acknowledged, p50", "ms", [percentile(late_ms, 50)], "half of the interval",
            [INTERVAL * 500]),
        Row(f"{name}: line to acknowledged, p99", "ms", [percentile(late_ms, 99)], "the interval", [INTERVAL * 1000]),
    ]  # fmt: skip


def where(found: Sequence[Row]) -> list[str]:
    """Where the time goes, as far as these figures say."""
    spent = [
        1000 / statistics.median(row.ours)
        for row in found
        if row.name.startswith("logs to") and row.name.endswith("second of CPU")
    ]
    return [
        f"To a store over HTTP a megabyte costs {min(spent):.1f} to {max(spent):.1f} CPU-ms: its lines are encoded "
        "once, signed (CloudWatch) or compressed (the others), and their place is durable before the next request. Of "
        f"lines that come one by one a host sends what it has every {INTERVAL} s, so that a thousand hosts stay inside "
        "12,000 requests a minute; the interval is what such a line waits at most. Crashes are measured by the slow "
        "tests: 200 of them lose no line and repeat one request each at most."
    ]
