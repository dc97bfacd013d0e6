"""Sessions by the thousand: simulated hosts on a control plane of their own, beside bare TLS websockets.

Every simulated host has its own key, certificate and session (`towline agent --simulate`). The floor is the same TLS
with a websocket that says back what it hears: what a session costs before it means anything.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import resource
import shutil
import signal
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from parts import ANYWHERE, Bench, Row, Server, cpu, initialise, launch, percentile, status, stop, wait_for

#: Hosts of one cluster; a thousand hosts are ten clusters.
PER_CLUSTER = 100
#: Milliseconds between two reports: as in the product, and shortened.
CALM, BUSY = 30_000, 1_000
#: Seconds of watching: each host reports at least once in the first.
WATCH = {CALM: 35.0, BUSY: 10.0}
#: What starts is left alone for this long before it is measured.
SETTLE = 4.0
#: A fleet that is not all there after this long will not be.
LIMIT = 180.0
#: The only thing that this server does differently, and limits that a thousand hosts fit under.
SETTINGS = "[local]\nsimulate = true\n[validity]\nlocal_token = '1h'\n"


@dataclass(frozen=True)
class Found:
    """One fleet of one size, from nothing to its end."""

    hosts: int
    arrive: float
    idle_kib: float
    storm: float
    storm_cpu_us: float
    storm_kib: float
    calm_us: float
    busy_us: float
    p99_ms: float


@dataclass(frozen=True)
class Floor:
    """As many bare sessions."""

    connect: float
    connect_cpu_us: float
    kib: float
    echo_us: float


class People:
    """The few calls of the people's API that a bench needs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tls = ssl.create_default_context(cafile=server.run["ca_file"])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; JSON in and out."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.server.token}", "Content-Type": "application/json"}
        return self.send(method, self.server.run["people_url"] + path, data, headers)

    def send(self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]) -> Any:
        """Send it; anything but success is the end."""
        to = urlsplit(url)
        connection = http.client.HTTPSConnection(str(to.hostname), to.port, timeout=30, context=self.tls)
        with closing(connection):
            connection.request(method, to.path + (f"?{to.query}" if to.query else ""), data, dict(headers))
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {to.path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None

    def environment(self) -> dict[str, Any]:
        """Something that clusters can name. No simulated host looks into it."""
        lock = b"simulated"
        digest = hashlib.sha256(lock).hexdigest()
        interpreter = {"implementation": "cpython", "version": "3.11.2", "sha256": None}
        blobs = [{"digest": digest, "size": len(lock)}]
        announced = {"digest": digest, "interpreter": "cpython-3.11.2", "platform": "x86_64", "packages": []}
        for missing in self.call("POST", "/api/v1/environments", {**announced, "blobs": blobs})["missing"]:
            self.send("PUT", missing["url"], lock, {})
        self.call("POST", f"/api/v1/environments/{digest}/complete")
        return {"digest": digest, "interpreter": interpreter, "kind": "wheels"}

    def clusters(self, environment: dict[str, Any], hosts: int) -> list[str]:
        """Clusters with this many hosts in all, schedulers included; their ids."""
        worker: dict[str, Any] = {"processes": 1, "threads": 1, "nanny": True, "memory_limit": None, "resources": []}
        made = []
        for size in sizes(hosts):
            wish = {
                "backend": "local", "n_workers": size - 1, "environment": environment, "worker": worker,
                "owner_key": base64.b64encode(os.urandom(32)).decode(), "idle_after": None, "no_client_after": None,
            }  # fmt: skip
            made.append(self.call("POST", "/api/v1/clusters", wish)["id"])
        return made


def sizes(hosts: int) -> list[int]:
    """Hosts of each cluster."""
    whole, rest = divmod(hosts, PER_CLUSTER)
    return [PER_CLUSTER] * whole + ([rest] if rest else [])


class Hosts:
    """The process that speaks for all hosts, and what it said last."""

    def __init__(self, bench: Bench, server: Server, hosts: int, every: int) -> None:
        options = ["--at-most", str(hosts), "--report-every", str(every), "--for", "1800", "--json"]
        with (server.data / f"hosts-{every}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [bench.towline, "agent", "--simulate", server.data / "hosts", *options],
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.last: dict[str, Any] = {}
        self.answers: list[int] = []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        """Until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            self.answers.extend(said.pop("lease_us"))
            self.last = said

    def count(self, what: str) -> int:
        """One of its counts."""
        return int(self.last.get(what, 0))

    def wait(self, what: str, hosts: int) -> float:
        """Until this count is there; seconds."""

        def there() -> bool:
            if self.process.poll() is not None or self.count("failed") or self.count("refused"):
                raise SystemExit(f"the simulation is in trouble: {self.last}")
            return self.count(what) == hosts

        return wait_for(f"{hosts} hosts {what}", there, LIMIT)

    def end(self) -> None:
        """No session may be left."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.reader.join(10)
        if code != 0 or self.count("connected"):
            raise SystemExit(f"the simulation ended with {code}: {self.last}")


@contextmanager
def fleet(bench: Bench, hosts: int, every: int, name: str) -> Iterator[tuple[Server, Hosts, float, float]]:
    """A server whose hosts have all joined; with the server's memory before, and how long they took."""
    data = bench.work / name
    data.mkdir()
    initialise(bench.towline, data, SETTINGS)
    server = launch(bench.towline, data, ANYWHERE)
    speakers = None
    try:
        speakers = Hosts(bench, server, hosts, every)
        people = People(server)
        environment = people.environment()
        time.sleep(1)
        base = status(server.process.pid, "VmRSS")
        begun = time.monotonic()
        made = people.clusters(environment, hosts)
        speakers.wait("joined", hosts)
        taken = time.monotonic() - begun
        time.sleep(SETTLE)
        yield server, speakers, base, taken
        for cluster in made:
            People(server).call("DELETE", f"/api/v1/clusters/{cluster}")
        speakers.wait("ended", hosts)
        speakers.end()
    finally:
        if speakers is not None and speakers.process.poll() is None:
            speakers.process.kill()
            speakers.process.wait(30)
        stop(server.process)
    shutil.rmtree(data)


def watch(pid: int, answered: Callable[[], int], seconds: float) -> float:
    """Microseconds of a process's CPU for each answer."""
    before, begun = cpu(pid), answered()
    time.sleep(seconds)
    used, done = cpu(pid) - before, answered() - begun
    if done <= 0:
        raise SystemExit(f"nothing was answered in {seconds:.0f} s")
    return 1e6 * used / done


def storm(bench: Bench, server: Server, speakers: Hosts, hosts: int) -> tuple[float, float, float]:
    """Kill the server, start it again: seconds until all are back, CPU for each, memory after it."""
    again = [server.run[f"{who}_url"].removeprefix("https://") for who in ("people", "agents")]
    server.process.kill()
    server.process.wait(10)
    if server.process.stdin is not None:
        server.process.stdin.close()
    wait_for("no host is connected", lambda: speakers.count("connected") == 0, 60)
    server.process = launch(bench.towline, server.data, [*again, "127.0.0.1:0"]).process
    server.wait_ready()
    base, used, begun = status(server.process.pid, "VmRSS"), cpu(server.process.pid), time.monotonic()
    speakers.wait("joined", hosts)
    taken, spent = time.monotonic() - begun, cpu(server.process.pid) - used
    time.sleep(SETTLE)
    grown = status(server.process.pid, "VmRSS") - base
    return taken, 1e6 * spent / hosts, 1024 * grown / hosts


def measure(bench: Bench, hosts: int, number: int) -> Found:
    """Both periods and the storm, for one size."""
    with fleet(bench, hosts, CALM, f"calm-{hosts}-{number}") as (server, speakers, base, arrive):
        pid = server.process.pid
        calm = watch(pid, lambda: speakers.count("leases"), WATCH[CALM])
        idle = 1024 * (status(pid, "VmRSS") - base) / hosts
        back, back_cpu, after = storm(bench, server, speakers, hosts)
    with fleet(bench, hosts, BUSY, f"busy-{hosts}-{number}") as (server, speakers, _, _):
        speakers.answers.clear()
        busy = watch(server.process.pid, lambda: speakers.count("leases"), WATCH[BUSY])
        late = percentile(speakers.answers, 99) / 1000
    return Found(hosts, arrive, idle, back, back_cpu, after, calm, busy, late)


def floor(bench: Bench, hosts: int) -> Floor:
    """The same number of bare sessions, speaking once a second."""
    folder = bench.work / f"floor-{hosts}"
    folder.mkdir()
    serving = subprocess.Popen([bench.helper, "serve", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert serving.stdout is not None
        port = json.loads(serving.stdout.readline())["port"]
        base, used = status(serving.pid, "VmRSS"), cpu(serving.pid)
        words = [
            bench.helper,
            "connect",
            str(folder),
            str(port),
            str(hosts),
            str(BUSY),
            str(int(SETTLE + WATCH[BUSY] + 5)),
        ]
        speaking = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert speaking.stdout is not None
        opened = json.loads(speaking.stdout.readline())
        if opened["connected"] != hosts:
            raise SystemExit(f"{opened['connected']} of {hosts} bare sessions came up")
        spent, last = cpu(serving.pid) - used, {"answers": 0}
        reader = threading.Thread(target=lambda: [last.update(json.loads(line)) for line in speaking.stdout or ()])
        reader.start()
        time.sleep(SETTLE)
        echo = watch(serving.pid, lambda: last["answers"], WATCH[BUSY])
        kib = 1024 * (status(serving.pid, "VmRSS") - base) / hosts
        speaking.wait(60)
        reader.join(10)
    finally:
        stop(serving)
    shutil.rmtree(folder)
    return Floor(opened["seconds"], 1e6 * spent / hosts, kib, echo)


def rows(bench: Bench) -> list[Row]:
    """All sizes, each with its floor in the same minutes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    bench.peers["floor of sessions"] = "tokio-tungstenite on rustls, echoing 700 bytes"
    found: list[Row] = []
    for hosts in bench.hosts:
        taken: list[tuple[Found, Floor]] = []
        for number in range(max(1, bench.rounds // 3)):
            one, bare = measure(bench, hosts, number), floor(bench, hosts)
            bench.say(
                f"  {hosts} hosts: {one.idle_kib:.0f} KiB each (floor {bare.kib:.0f}), back after {one.storm:.2f} s, "
                f"{one.busy_us:.0f} us a report (floor {bare.echo_us:.0f}), p99 {one.p99_ms:.1f} ms"
            )
            taken.append((one, bare))
        found += judge(taken)
    return found


def judge(taken: Sequence[tuple[Found, Floor]]) -> list[Row]:
    """The rows of one size. Pure."""
    ours, bare = [one for one, _ in taken], [one for _, one in taken]
    name = f"{ours[0].hosts} sessions"
    memory, echo, connect = "bare TLS websocket", "echo of 700 bytes, every second", "bare connect, all at once"
    alone = "nothing comparable"
    kib, echoes = [one.kib for one in bare], [one.echo_us for one in bare]
    return [
        Row(f"{name}: control plane's memory for each", "KiB", [one.idle_kib for one in ours], memory, kib),
        Row(f"{name}: the same after a server's restart", "KiB", [one.storm_kib for one in ours], memory, kib),
        Row(f"{name}: CPU for a report, one in 30 s", "µs", [one.calm_us for one in ours], echo, echoes),
        Row(f"{name}: CPU for a report, one a second", "µs", [one.busy_us for one in ours], echo, echoes),
        Row(f"{name}: report to lease, p99, one a second", "ms", [one.p99_ms for one in ours], alone),
        Row(f"{name}: cluster calls to all hosts joined", "s", [one.arrive for one in ours], alone),
        Row(f"{name}: killed server listens to all joined again", "s", [one.storm for one in ours], connect,
            [one.connect for one in bare]),
        Row(f"{name}: CPU for a host that comes back", "µs", [one.storm_cpu_us for one in ours], connect,
            [one.connect_cpu_us for one in bare]),
    ]  # fmt: skip


def where(found: Sequence[Row]) -> list[str]:
    """Where the time goes, as far as these figures say."""
    size = found[0].name.partition(":")[0]
    calm, busy = (statistics.median(found[index].ours) for index in (2, 3))
    return [
        "A report is verified JSON, a row written to SQLite, a signed lease, and a look at all hosts of its cluster, "
        f"which costs more in a large one; an echo is two frames. Of {size}, at one report in 30 s a report takes "
        f"{calm:.0f} µs of CPU, with everything else that an idle server does counted in; at one a second "
        f"{busy:.0f} µs.",
        "Hosts that lost their server try again after up to 2 s by chance, longer the more tries failed: most of the "
        "time until all are back is that wait. Bare sessions dial at once.",
    ]
