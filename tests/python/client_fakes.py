"""Programs round the Python package under test: a strict control plane, a binary, and a real Dask over TLS.

The control plane refuses what the real one refuses (unknown fields, missing headers, a wrong token) and has knobs for
what can go wrong. The Dask scheduler and workers are real processes with certificates of a real cluster CA.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import datetime
import http.server
import ipaddress
import json
import os
import random
import socket
import ssl
import stat
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

WORKSPACE = "ws-aaaaaaaaaaaaaaaa"
TOKEN = "tl_" + "x" * 43
DIGEST = "ab" * 32
CLUSTER_FIELDS = {
    "backend", "n_workers", "owner_key", "environment", "worker", "idle_after", "no_client_after", "max_lifetime",
    "tags", "name",
}  # fmt: skip
WORKER_FIELDS = {"processes", "threads", "memory_limit", "nanny", "resources"}


class Authority:
    """A certificate authority, for the control plane or for a cluster."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self.name, self.key.public_key(), 30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )  # fmt: skip
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=days))
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, key: ec.EllipticCurvePublicKey, uri: str | None = None) -> str:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
        if not uri:
            names += [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        return (
            self._builder(subject, key, 1)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )

    def identity(self, folder: Path, name: str, uri: str | None = None) -> tuple[Path, Path]:
        """A fresh key and its certificate, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        key_file, certificate_file = folder / f"{name}.key", folder / f"{name}.crt"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        key_file.chmod(0o600)
        certificate_file.write_text(self.issue(key.public_key(), uri))
        return certificate_file, key_file


def member_uri(cluster: str, member: str, role: str) -> str:
    return f"spiffe://towline.test/workspace/{WORKSPACE}/cluster/{cluster}/host/{member}/role/{role}"


def random_id(prefix: str) -> str:
    return prefix + base64.b32encode(os.urandom(10)).decode().lower()


def free_port() -> int:
    """A port below those that the system hands out by itself, so that nobody gets it in the meantime."""
    while True:
        port = random.randrange(11_000, 19_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Knobs:
    """What goes wrong."""

    #: Answer these calls, by path ending, with a problem instead.
    problems: dict[str, tuple[int, dict]] = field(default_factory=dict)
    #: Answer this many calls with 503 first.
    busy: int = 0
    #: Create the cluster, but cut the connection instead of answering, this many times.
    lost_answers: int = 0
    #: Hosts never get further than this phase.
    stuck_at: str | None = None
    #: The cluster fails with this reason while it starts.
    fails_with: dict | None = None
    #: Role and cluster in the scheduler's certificate.
    scheduler_role: str = "scheduler"
    scheduler_cluster: str | None = None
    #: Cut every event stream after this many events.
    cut_events_after: int | None = None
    #: Seconds before a create call is answered.
    create_takes: float = 0.0
    version: str = "0.1.0"
    #: Hosts do not end when told to.
    never_ends: bool = False


class FakeControlPlane:
    """A control plane in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.knobs = Knobs()
        self.clusters: dict[str, dict] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[dict] = []
        self.authority = Authority("control plane")
        self.streams = 0
        self._processes: dict[str, dict[str, subprocess.Popen]] = {}
        self._authorities: dict[str, Authority] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.changed = asyncio.Condition()
        certificate, key = self.authority.identity(self.folder, "people")
        self.ca_file = self.folder / "ca.pem"
        self.ca_file.write_text(self.authority.pem)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.minimum_version = ssl.TLSVersion.TLSv1_3
        tls.load_cert_chain(certificate, key)
        application = Application(
            [
                (r"/api/v1/whoami", WhoAmI, {"plane": self}),
                (r"/api/v1/clusters", Clusters, {"plane": self}),
                (r"/api/v1/clusters/([^/]+)", OneCluster, {"plane": self}),
                (r"/api/v1/clusters/([^/]+)/(scale|adapt|admissions|admission-requests)", Act, {"plane": self}),
                (r"/api/v1/clusters/([^/]+)/hold", Hold, {"plane": self}),
                (r"/api/v1/clusters/([^/]+)/why", Why, {"plane": self}),
                (r"/api/v1/clusters/([^/]+)/events", Events, {"plane": self}),
            ],
            log_function=lambda handler: None,
        )
        sockets = bind_sockets(0, "127.0.0.1")
        self.url = f"https://127.0.0.1:{sockets[0].getsockname()[1]}"
        self._server = HTTPServer(application, ssl_options=tls)
        self._server.add_sockets(sockets)
        self._tasks: set[asyncio.Task] = set()
        self._ready.set()
        await self._stop.wait()
        self._server.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close_all_connections()

    def go_away(self) -> None:
        """Answer nobody any more."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)

    def close(self) -> None:
        self.go_away()
        for processes in self._processes.values():
            for process in processes.values():
                process.kill()
                process.wait()

    def spawn(self, work) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def do(self, work):
        """Run a coroutine on the control plane's loop, from a test."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    @property
    def only(self) -> dict:
        assert len(self.clusters) == 1, list(self.clusters)
        return next(iter(self.clusters.values()))

    def processes(self) -> list[subprocess.Popen]:
        return [process for some in self._processes.values() for process in some.values()]

    async def change(self, view: dict, **fields) -> None:
        view.update(fields)
        view["revision"] += 1
        async with self.changed:
            self.changed.notify_all()

    # -- clusters ------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> dict:
        for view in self.clusters.values():
            if name in (view["id"], view["name"]):
                return view
        raise Problem(404, "cluster_unknown", f"there is no cluster {name}", "`towline cluster list` shows them.")

    def make(self, body: dict) -> dict:
        cluster = random_id("cl-")
        name = body.get("name") or f"tester-{cluster[-4:]}"
        if any(view["name"] == name and view["state"] not in ("stopped", "failed") for view in self.clusters.values()):
            raise Problem(409, "cluster_name_taken", f"the name {name} is taken", "Choose another name.")
        logs = self.folder / "logs" / cluster
        logs.mkdir(parents=True)
        view = {
            "id": cluster,
            "name": name,
            "workspace": WORKSPACE,
            "owner": "tester",
            "owner_key": body["owner_key"],
            "backend": body["backend"],
            "state": "starting",
            "reason": None,
            "n_workers": body["n_workers"],
            "environment": body["environment"],
            "scheduler": {"addresses": [f"tls://127.0.0.1:{free_port()}"]},
            "cluster_ca": None,
            "clients": [],
            "admission_requests": [],
            "hosts": [self.host(cluster, "scheduler")],
            "logs": {"kind": "file", "directory": str(logs)},
            "revision": 1,
            "created_at_ms": int(time.time() * 1000),
            "ended_at_ms": None,
        }
        view["hosts"] += [self.host(cluster, "worker") for _ in range(body["n_workers"])]
        self.clusters[cluster] = view
        self._authorities[cluster] = Authority(f"cluster {cluster}")
        self._processes[cluster] = {}
        self.spawn(self.start(view))
        return view

    def host(self, cluster: str, role: str) -> dict:
        return {
            "id": random_id("ho-"), "cluster": cluster, "role": role, "state": "starting", "reason": None,
            "phases": [{"phase": "requested", "reached_at_ms": 0, "millis": 0}],
            "current": {"waiting_for": "created", "since_ms": 0, "deadline_seconds": 300, "late": False},
            "observed": None, "agent_version": None, "reports": 0, "last_seen_at_ms": None, "vitals": None,
            "verdict": None, "processes": [], "gpus_unused_since_ms": None, "sign_off": None, "created_at_ms": 0, "ended_at_ms": None,
        }  # fmt: skip

    async def reach(self, view: dict, host: dict, phase: str) -> None:
        host["phases"].append({"phase": phase, "reached_at_ms": 0, "millis": 7})
        order = ["created", "booted", "enrolled", "synced", "launched", "joined"]
        following = order[order.index(phase) + 1 :]
        host["current"] = {**host["current"], "waiting_for": following[0]} if following else None
        await self.change(view)

    async def start(self, view: dict) -> None:
        for phase in ("created", "booted", "enrolled", "synced"):
            if self.knobs.stuck_at == phase:
                return
            for host in view["hosts"]:
                await self.reach(view, host, phase)
            await asyncio.sleep(0.01)
        if self.knobs.fails_with:
            await self.change(view, state="failed", reason=self.knobs.fails_with)
            return
        authority = self._authorities[view["id"]]
        await self.change(view, cluster_ca=authority.pem)
        for host in view["hosts"]:
            self.launch(view, host)
            await self.reach(view, host, "launched")
        port = int(view["scheduler"]["addresses"][0].rpartition(":")[2])
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.05)
        for host in view["hosts"]:
            host["state"] = "up"
            await self.reach(view, host, "joined")
        if view["state"] == "starting":
            await self.change(view, state="running")

    def launch(self, view: dict, host: dict) -> None:
        role, cluster = host["role"], view["id"]
        shown = self.knobs.scheduler_role if role == "scheduler" else role
        named = (self.knobs.scheduler_cluster or cluster) if role == "scheduler" else cluster
        authority = self._authorities[cluster]
        certificate, key = authority.identity(self.folder, host["id"], member_uri(named, host["id"], shown))
        ca = self.folder / f"{cluster}.ca"
        ca.write_text(authority.pem)
        address = view["scheduler"]["addresses"][0]
        tls = ["--tls-ca-file", str(ca), "--tls-cert", str(certificate), "--tls-key", str(key), "--no-dashboard"]
        if role == "scheduler":
            arguments = ["dask_scheduler", "--host", "tls://127.0.0.1", "--port", address.rpartition(":")[2], *tls]
        else:
            arguments = [
                "dask_worker", address, "--host", "tls://127.0.0.1", "--name", host["id"], "--nthreads", "1",
                "--no-nanny", "--local-directory", str(self.folder / "work"), *tls,
            ]  # fmt: skip
        stream = role if role == "scheduler" else f"worker-{host['id']}"
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{arguments[0]}", *arguments[1:]],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ,
        )  # fmt: skip
        self._processes[cluster][host["id"]] = process
        file = Path(view["logs"]["directory"]) / f"{stream}.jsonl"
        threading.Thread(target=ship, args=(process.stdout, file), daemon=True).start()

    def admit(self, view: dict, body: dict) -> None:
        admission = body["admission"]
        if admission != {"signed": [view["id"], body["spki"]]}:
            raise Problem(400, "admission_invalid", "the admission is not the owner's", "")
        if any(client["id"] == body["client"] for client in view["clients"]):
            return
        self.let_in(view, body["client"], body["spki"], "tester")

    def let_in(self, view: dict, name: str, spki: str, person: str) -> None:
        """Take a client in, as if the owner had signed."""
        client = {"id": name, "key": "00" * 32, "person": person, "certificate": None, "not_after": 0}
        view["clients"].append(client)
        view["admission_requests"] = [asked for asked in view["admission_requests"] if asked["client"] != name]

        async def issue() -> None:
            while view["state"] == "starting":
                await asyncio.sleep(0.02)
            key = serialization.load_der_public_key(base64.b64decode(spki))
            authority = self._authorities[view["id"]]
            client["certificate"] = authority.issue(key, member_uri(view["id"], name, "client"))
            await self.change(view)

        self.spawn(issue())

    async def ask(self, view: dict, body: dict) -> None:
        if any(client["id"] == body["client"] for client in view["clients"]):
            return
        asked = next((asked for asked in view["admission_requests"] if asked["client"] == body["client"]), None)
        if asked is None:
            times = {"asked_at_ms": 1, "expires_at_ms": 2}
            asked = {**body, "key": "00" * 32, "person": "bob", "state": "pending", **times}
            await self.change(view, admission_requests=[*view["admission_requests"], asked])
        if asked["state"] != "pending":
            raise Problem(409, "admission_refused", "the client was refused", "Talk to the owner.")

    async def answer(self, view: dict, state: str | None) -> None:
        """Answer everybody who asks: let them in (None), or set their requests to a state."""
        for asked in list(view["admission_requests"]):
            if state is None:
                self.let_in(view, asked["client"], asked["spki"], asked["person"])
            else:
                asked["state"] = state
        await self.change(view)

    async def stop(self, view: dict) -> None:
        if view["state"] in ("stopped", "failed", "stopping"):
            return
        await self.change(view, state="stopping")
        if self.knobs.never_ends:
            return
        for host in view["hosts"]:
            await self.end_host(view, host)
        await self.change(view, state="stopped", ended_at_ms=int(time.time() * 1000))

    async def end_host(self, view: dict, host: dict) -> None:
        process = self._processes[view["id"]].pop(host["id"], None)
        if process is not None:
            process.terminate()
            await asyncio.get_running_loop().run_in_executor(None, process.wait)
        host["state"] = "ended"
        host["sign_off"] = {"reason": "assigned", "at": int(time.time()), "processes_stopped": 1}
        await self.change(view)

    async def scale(self, view: dict, n: int, going: list[str] = []) -> None:  # noqa: B006
        for host in view["hosts"]:
            if host["id"] in going and host["state"] != "ended":
                await self.end_host(view, host)
        live = [host for host in view["hosts"] if host["role"] == "worker" and host["state"] != "ended"]
        view["n_workers"] = n
        for host in live[n:]:
            await self.end_host(view, host)
        for _ in range(n - len(live)):
            host = self.host(view["id"], "worker")
            view["hosts"].append(host)
            self.launch(view, host)
            host["state"] = "up"
            await self.reach(view, host, "joined")
        await self.change(view)


def ship(output: IO[bytes], file: Path) -> None:
    """Write a process' lines as an agent's `file` sink does."""
    place = 0
    with file.open("a", encoding="utf-8") as log:
        for line in output:
            text = line.decode("utf-8", "replace").removesuffix("\n")
            record = {"time": int(time.time() * 1000), "stream": file.stem, "id": place, "line": text}
            log.write(json.dumps(record) + "\n")
            log.flush()
            place += len(line)


class Problem(Exception):
    def __init__(self, status: int, code: str, detail: str, remedy: str) -> None:
        self.status = status
        self.document = {
            "type": f"urn:towline:error:{code}", "title": code, "status": status, "detail": detail, "code": code,
            "remedy": remedy,
        }  # fmt: skip


class Handler(RequestHandler):
    def initialize(self, plane: FakeControlPlane) -> None:
        self.plane = plane

    async def prepare(self) -> None:
        plane = self.plane
        plane.calls.append((self.request.method, self.request.path))
        if self.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Problem(401, "unauthorised", "the token is not known", "Run `towline login`.")
        if plane.knobs.busy > 0:
            plane.knobs.busy -= 1
            raise HTTPError(503)
        for ending, (status, document) in plane.knobs.problems.items():
            if self.request.path.endswith(ending):
                raise Problem(status, document["code"], document["detail"], document["remedy"])

    def log_exception(self, *_: object) -> None:
        pass

    def write_error(self, status: int, **kwargs: object) -> None:
        error = kwargs["exc_info"][1]
        if isinstance(error, Problem):
            self.set_status(error.status)
            self.set_header("Content-Type", "application/problem+json")
            self.finish(json.dumps(error.document))
        else:
            self.finish()

    def body(self, wanted: set[str], optional: frozenset[str] = frozenset()) -> dict:
        assert self.request.headers["Content-Type"] == "application/json"
        value = json.loads(self.request.body)
        unknown, missing = set(value) - wanted, wanted - optional - set(value)
        if unknown or missing:
            raise Problem(400, "body_invalid", f"unknown {sorted(unknown)}, missing {sorted(missing)}", "")
        return value

    def answer(self, value: object, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))


class WhoAmI(Handler):
    def get(self) -> None:
        self.answer(
            {
                "person": "tester", "role": "member", "workspace": WORKSPACE, "trust_domain": "towline.test",
                "version": self.plane.knobs.version, "backends": ["local"],
                "target": {"platform": "x86_64-manylinux_2_36", "interpreters": ["cpython-3.11.2"]},
            }
        )  # fmt: skip


class Clusters(Handler):
    def get(self) -> None:
        self.answer([view for view in self.plane.clusters.values() if view["state"] not in ("stopped", "failed")])

    async def post(self) -> None:
        plane = self.plane
        key = self.request.headers["Idempotency-Key"]
        body = self.body(CLUSTER_FIELDS, frozenset({"name"}))
        if set(body["worker"]) != WORKER_FIELDS:
            raise Problem(400, "body_invalid", f"worker has {sorted(body['worker'])}", "")
        if set(body["environment"]) != {"digest", "interpreter", "kind"}:
            raise Problem(400, "body_invalid", "environment", "")
        plane.bodies.append(body)
        text = json.dumps(body, sort_keys=True)
        if key in plane.keys:
            cluster, first = plane.keys[key]
            if first != text:
                raise Problem(409, "idempotency_key_reused", "another body came with this key", "")
            view, status = plane.clusters[cluster], 200
        else:
            view, status = plane.make(body), 201
            plane.keys[key] = (view["id"], text)
        await asyncio.sleep(plane.knobs.create_takes)
        if plane.knobs.lost_answers > 0:
            plane.knobs.lost_answers -= 1
            self.request.connection.stream.close()
            return
        self.answer(view, status)


class OneCluster(Handler):
    def get(self, name: str) -> None:
        self.answer(self.plane.find(name))

    def delete(self, name: str) -> None:
        view = self.plane.find(name)
        before = copy.deepcopy(view)
        self.plane.spawn(self.plane.stop(view))
        self.answer(before, 202)


class Hold(Handler):
    def post(self, name: str) -> None:
        view = self.plane.find(name)
        view["hold"] = self.body({"seconds", "reason"})
        self.answer(view)

    def delete(self, name: str) -> None:
        view = self.plane.find(name)
        view["hold"] = None
        self.answer(view)


class Why(Handler):
    def get(self, name: str) -> None:
        view = self.plane.find(name)
        self.answer({"sentences": [f"It is {view['state']}.", "It ends in 5 min."], "deadlines": []})


class Act(Handler):
    async def post(self, name: str, verb: str) -> None:
        view = self.plane.find(name)
        if verb == "scale":
            view["adaptive"] = None
            wish = self.body({"n_workers", "going"})
            await self.plane.scale(view, wish["n_workers"], wish["going"])
            self.answer(view)
        elif verb == "adapt":
            names = {"minimum", "maximum", "interval_ms", "wait_count", "target_duration_ms"}
            view["adaptive"] = self.body(names)
            await self.plane.scale(view, max(view["n_workers"], view["adaptive"]["minimum"]))
            self.answer(view)
        elif verb == "admission-requests":
            await self.plane.ask(view, self.body({"client", "spki"}))
            self.answer(view, 202)
        else:
            self.plane.admit(view, self.body({"client", "spki", "admission"}))
            self.answer(view, 202)


class Events(Handler):
    async def get(self, name: str) -> None:
        plane, view = self.plane, self.plane.find(name)
        assert self.request.headers["Accept"] == "text/event-stream"
        plane.streams += 1
        self.set_header("Content-Type", "text/event-stream")
        seen, sent = 0, 0
        try:
            self.write(": keep-alive\n\n")
            while True:
                async with plane.changed:
                    await plane.changed.wait_for(lambda seen=seen: view["revision"] > seen)
                    seen = view["revision"]
                self.write(f"event: cluster\ndata: {json.dumps(view)}\n\n")
                await self.flush()
                sent += 1
                if plane.knobs.cut_events_after is not None and sent >= plane.knobs.cut_events_after:
                    # Tornado's client drops what came in one gulp with the end of a connection.
                    await asyncio.sleep(0.05)
                    self.request.connection.stream.close()
                    return
                if view["state"] in ("stopped", "failed"):
                    return
        except StreamClosedError:
            pass


BINARY = '''\
#!{python}
"""A binary with the private verbs that the Python package calls. Records how it was called."""
import base64, json, os, sys, time
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

state = Path(os.environ["XDG_STATE_HOME"]) / "towline" / "clusters"
words = sys.argv[1:]
knobs = json.loads(os.environ.get("FAKE_BINARY", "{{}}"))
with open(Path(os.environ["XDG_STATE_HOME"]) / "calls", "a") as calls:
    calls.write(" ".join(words) + "\\n")

def say(value):
    print(json.dumps(value), flush=True)

def new_client(folder, prefix="client-"):
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    name = prefix + os.urandom(4).hex()
    file = folder / (name + ".key")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as handle:
        handle.write(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return name, base64.b64encode(spki).decode(), str(file)

def admitted(folder, cluster, name, spki, file):
    say({{"client": name, "spki": spki, "admission": {{"signed": [cluster, spki]}}, "key_file": file}})

if words == ["version", "--json"]:
    say({{"version": knobs.get("version", "0.1.0")}})
elif words == ["env", "prepare", "--json-lines"]:
    scan = json.load(sys.stdin)
    assert scan["v"] == 0 and scan["distributions"] and scan["interpreter"]["version"], scan
    if "hang" in knobs:
        time.sleep(60)
    if "refusal" in knobs:
        say({{"event": "error", **knobs["refusal"]}})
        sys.exit(1)
    if "crash" in knobs:
        sys.exit("the disk is on fire")
    if "noise" in knobs:
        print("hello, I am not JSON")
    say({{"event": "progress", "phase": "solve", "message": "choosing", "done": 1, "total": 2}})
    say({{"event": "progress", "phase": "upload", "message": "uploading", "done": 2, "total": 2}})
    say({{"event": "ready", "environment": {{"digest": "{digest}", "kind": "wheels", "interpreter": {{
        "implementation": "cpython", "version": "3.11.2", "sha256": None}}}},
        "packages": len(scan["distributions"]), "uploaded_bytes": 5, "seconds": 0.1}})
elif words == ["keys", "new", "--json"]:
    handle = "k-" + os.urandom(4).hex()
    (state / handle).mkdir(parents=True, mode=0o700)
    (state / handle / "owner.key").write_text("owner")
    name, spki, file = new_client(state / handle)
    say({{"handle": handle, "owner_key": "b3duZXI=", "client": {{"id": name, "spki": spki, "key_file": file}}}})
elif words[:2] == ["keys", "admit"]:
    handle, cluster = words[3], words[5]
    assert words == ["keys", "admit", "--handle", handle, "--cluster", cluster, "--json"], words
    (state / handle).rename(state / cluster)
    file = next((state / cluster).glob("client-*.key"))
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    spki = base64.b64encode(key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()
    admitted(state / cluster, cluster, file.stem, spki, str(file))
elif words[:2] == ["keys", "client"]:
    cluster = words[3]
    assert words == ["keys", "client", "--cluster", cluster, "--json"], words
    if not (state / cluster / "owner.key").exists():
        say({{"event": "error", "code": "owner_key_elsewhere", "message": "the owner key is not here",
              "remedy": "Use the machine that made the cluster."}})
        sys.exit(1)
    name, spki, file = new_client(state / cluster)
    admitted(state / cluster, cluster, name, spki, file)
elif words[:2] == ["keys", "ask"]:
    cluster = words[3]
    assert words == ["keys", "ask", "--cluster", cluster, "--json"], words
    (state / cluster).mkdir(parents=True, mode=0o700, exist_ok=True)
    file = next((state / cluster).glob("client-joined-*.key"), None)
    if file is None:
        name, spki, file = new_client(state / cluster, "client-joined-")
    key = serialization.load_pem_private_key(Path(file).read_bytes(), None)
    spki = base64.b64encode(key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()
    say({{"client": Path(file).stem, "spki": spki, "code": "CODE-OF-" + Path(file).stem[-8:], "key_file": str(file)}})
elif words[:2] == ["cluster", "admit"]:
    assert words[3:5] == ["--json", "--"] and len(words) == 6, words
    time.sleep(1)
    if words[5] != "GOOD-CODE":
        say({{"event": "error", "code": "admission_code_unknown", "message": "nobody has it", "remedy": "Compare."}})
        sys.exit(77)
    say({{"cluster": words[2], "client": "client-joined-bob", "person": "bob"}})
else:
    sys.exit("unknown verb: " + " ".join(words))
'''


class Workbench:
    """A control plane, a binary and a profile, wired up by the environment."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        self.plane = FakeControlPlane(folder)
        self.state = folder / "state"
        (self.state / "towline" / "clusters").mkdir(parents=True)
        binary = folder / "towline"
        binary.write_text(BINARY.format(python=sys.executable, digest=DIGEST))
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        self.profiles = folder / "profiles.toml"
        self.write_profile()
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("TOWLINE_BINARY", str(binary))
        monkeypatch.setenv("TOWLINE_CONFIG", str(self.profiles))
        monkeypatch.setenv("XDG_STATE_HOME", str(self.state))
        monkeypatch.delenv("TOWLINE_PROFILE", raising=False)

    def write_profile(self, **changes: object) -> None:
        entries = {"url": self.plane.url, "ca_file": str(self.plane.ca_file), "token": TOKEN, "workspace": WORKSPACE}
        entries.update(changes)
        lines = [f"{name} = {json.dumps(value)}" for name, value in entries.items() if value is not None]
        self.profiles.write_text('default = "test"\n[profile.test]\n' + "\n".join(lines) + "\n")
        self.profiles.chmod(0o600)

    def binary_knobs(self, **knobs: object) -> None:
        self.monkeypatch.setenv("FAKE_BINARY", json.dumps(knobs))

    def binary_calls(self) -> list[str]:
        file = self.state / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def key_folders(self) -> list[str]:
        return sorted(path.name for path in (self.state / "towline" / "clusters").iterdir())

    def script(self, text: str) -> Path:
        file = self.folder / "script.py"
        file.write_text(textwrap.dedent(text))
        return file

    def environ(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def close(self) -> None:
        self.plane.close()


def plain_server() -> http.server.HTTPServer:
    """Something that is not a control plane."""
    return http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
