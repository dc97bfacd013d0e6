"""A pytest plugin that runs the tests of `distributed` against a cluster that is not theirs.

Owns which tests are asked, what they get for their fixtures, cleaning up between them, and the record of outcomes. The
same code serves both kinds of cluster, so that a difference is the cluster's. Driven by `cargo xtask strangers`.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import distributed
import pytest
from distributed import Client, Security, utils_test

# The fixtures that the tests ask for by name: their own `conftest.py` imports everything.
from distributed.utils_test import (  # noqa: F401
    cleanup,
    client_no_amm,
    loop,
    loop_in_thread,
    name_of_test,
    no_time_resync,
    requires_default_ports,
)

import stand_in

#: Parts of a cluster that only the process which made it can hand out.
INSIDE = {"s", "a", "b", "tls_cluster", "tls_client", "ws"}
#: How long a shared cluster may take to come.
START_SECONDS = 400
#: How long it gets to end by itself.
END_SECONDS = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this plugin."""
    group = parser.getgroup("strangers")
    group.addoption("--kind", choices=["stock", "towline"], default="stock", help="whose cluster the tests get")
    group.addoption("--record", help="write one line for each test to this file")
    group.addoption("--only", help="run only the tests whose names stand in this file, one on each line")


def pytest_configure(config: pytest.Config) -> None:
    """Put our things in the place of theirs, before any test module is imported."""
    for marker in ("avoid_ci", "ci1", "extra_packages", "flaky", "gpu", "ipython", "leaking", "slow", "workerstate"):
        config.addinivalue_line("markers", f"{marker}: a marker of distributed's tests")
    kind = config.getoption("kind")
    config.stash[RUN] = run = Run(kind, config.getoption("record"))
    # The wheel has no certificates to test with; they come with the tests.
    utils_test.certs_dir = str(Path(config.rootpath) / "strangers_suite" / "tests")
    utils_test.cluster = run.shared.as_theirs
    distributed.LocalCluster = run.local = stand_in.Ours if kind == "towline" else stand_in.Stock
    # What we ask the scheduler travels with the question: it does not have this module.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    if kind == "towline":
        # Tests dial the address that they are given and say nothing of keys. Before some of them the harness resets
        # the configuration to the copy that it took.
        security_loader.__dict__["shared"] = run.shared
        for known in (dask.config.config, utils_test.original_config):
            dask.config.set({"distributed.client.security-loader": "plugin.security_loader"}, config=known)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of the test harness: we replace parts of it."""
    return True if collection_path.name == "test_utils_test.py" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the tests that a cluster of another process can answer."""
    only = config.getoption("only")
    wanted = set(Path(only).read_text().splitlines()) if only else None
    chosen, left_out = [], []
    for item in items:
        rule = why_not_asked(item)
        if rule and wanted is None:
            config.stash[RUN].leave_out(item.nodeid, rule)
        asked = not rule and (wanted is None or item.nodeid in wanted)
        (chosen if asked else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen


def why_not_asked(item: pytest.Item) -> str:
    """The rule by which a test is no question to a cluster of another process; empty: it is one."""
    names = set(getattr(item, "fixturenames", ()))
    if "slow" in item.keywords:
        return "marked as slow, which is off by default"
    source = inspect.getsource(inspect.unwrap(item.function))  # type: ignore[attr-defined]
    if names & INSIDE or "@gen_cluster" in source:
        return "takes scheduler and workers of its own process into its hands"
    if "/deploy/" in item.nodeid:
        return "" if "LocalCluster(" in source else "makes no LocalCluster"
    if "@gen_" in source:
        return "runs in the event loop of a scheduler of its own"
    return "" if "client" in names or "with cluster(" in source else "asks no cluster that it is given"


class Shared:
    """The one cluster that client tests share; made at first use, replaced when a test left it unusable."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.used = False
        self.place: dict[str, str] = {}
        self._process: subprocess.Popen[str] | None = None
        self._fresh: dict[str, Any] = {}

    def start(self) -> None:
        """Have a cluster."""
        self.used = True
        if self._process is not None:
            return
        program = [sys.executable, str(Path(__file__).with_name("cluster.py")), self.kind]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            pytest.exit(f"no {self.kind} cluster to test with", returncode=3)
        self.place = json.loads(line)
        with self.dial() as client:
            self._fresh = client.run_on_scheduler(traces)

    def stop(self) -> None:
        """End the cluster."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def security(self) -> Security | None:
        """What a client needs; none for a cluster without TLS."""
        if "ca" not in self.place:
            return None
        return Security(
            require_encryption=True,
            tls_ca_file=self.place["ca"],
            tls_client_cert=self.place["certificate"],
            tls_client_key=self.place["key"],
        )

    def dial(self, **kwargs: Any) -> Client:
        """A client."""
        return Client(self.place["address"], security=self.security, timeout=30, **kwargs)

    def clean(self) -> None:
        """Let the next test find what the first one found: no data sets, tasks, plugins; all workers."""
        if not self.used:
            return
        self.used = False
        try:
            with self.dial(set_as_default=False) as client:
                for name in client.list_datasets():
                    client.unpublish_dataset(name)
                client.run_on_scheduler(forget)
                if self._settled(client, 1.0):
                    return
                client.restart(timeout=30)
                if self._settled(client, 10.0):
                    return
        except Exception as error:
            print(f"the shared cluster cannot be cleaned: {error!r}")
        self.stop()

    def _settled(self, client: Client, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (now := client.run_on_scheduler(traces)) != self._fresh:
            if time.monotonic() > until:
                print(f"left behind: {[(key, now[key]) for key in now if now[key] != self._fresh[key]]}")
                return False
            time.sleep(0.05)
        return True

    @contextlib.contextmanager
    def as_theirs(self, nworkers: int = 2, nanny: bool = False, **others: Any) -> Iterator[Any]:
        """`distributed.utils_test.cluster`, as far as it asks for what everybody gets."""
        given = {name: value for name, value in others.items() if value and not name.endswith("_timeout")}
        if nworkers != 2 or given:
            pytest.skip("asks for a cluster of a kind of its own")
        self.start()
        with self.dial(set_as_default=False) as client:
            workers = list(client.scheduler_info()["workers"])
        yield {"address": self.place["address"]}, [{"address": worker} for worker in workers]


def forget(dask_scheduler: Any) -> None:
    """Forget what is remembered of earlier work: tests count it. Runs in the scheduler."""
    dask_scheduler.computations.clear()


def traces(dask_scheduler: Any) -> dict[str, Any]:
    """What tests leave in a scheduler. Runs there."""
    return {
        "tasks": len(dask_scheduler.tasks),
        "workers": sum(worker.status.name == "running" for worker in dask_scheduler.workers.values()),
        "plugins": sorted(name for name in dask_scheduler.plugins if not name.startswith("Client-")),
        "worker_plugins": sorted(dask_scheduler.worker_plugins),
        "nanny_plugins": sorted(dask_scheduler.nanny_plugins),
    }


def security_loader(info: dict[str, Any]) -> Security | None:
    """Dask's own way to find keys for an address."""
    shared: Shared = security_loader.__dict__["shared"]
    if info["address"] == shared.place.get("address"):
        return shared.security
    return stand_in.Ours.security_of(info["address"])


class Run:
    """One run: its cluster, its record."""

    def __init__(self, kind: str, record: str | None) -> None:
        self.shared = Shared(kind)
        self.local: Any = None
        self._record = Path(record) if record else None
        self._reports: list[pytest.TestReport] = []
        self._made = 0
        if self._record:
            self._record.write_text("")

    def begin(self) -> None:
        """A test begins."""
        self._reports, self._made = [], self.local.made

    def heard(self, report: pytest.TestReport) -> None:
        """A part of a test has ended."""
        self._reports.append(report)

    def leave_out(self, name: str, rule: str) -> None:
        """A test is not asked, by this rule."""
        self._write("unasked", 0, False, name, rule)

    def end(self, name: str) -> None:
        """A test has ended."""
        worst = next((report for report in self._reports if report.failed), None)
        worst = worst or next((report for report in self._reports if report.skipped), None)
        outcome = worst.outcome if worst else "passed"
        used = self.shared.used or self.local.made > self._made
        seconds = sum(report.duration for report in self._reports)
        self._write(outcome, seconds, used, name, why(worst))

    def _write(self, outcome: str, seconds: float, used: bool, name: str, reason: str) -> None:
        """One line: `outcome TAB seconds TAB whether it used a cluster TAB name TAB reason`."""
        if self._record:
            line = "\t".join([outcome, f"{seconds:.2f}", "used" if used else "unused", name, reason])
            with self._record.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


RUN = pytest.StashKey[Run]()


def why(report: pytest.TestReport | None) -> str:
    """The reason in one line."""
    if report is None:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return " ".join(text.split())[:300]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Record a test, and clean up behind it when all of its own fixtures are gone."""
    run = item.config.stash[RUN]
    run.begin()
    result = yield
    run.end(item.nodeid)
    run.shared.clean()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Hear of every part of a test."""
    report = yield
    item.config.stash[RUN].heard(report)
    return report


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is left."""
    if run := config.stash.get(RUN, None):
        run.shared.stop()


@pytest.fixture(name="shared")
def shared_cluster(request: pytest.FixtureRequest) -> Shared:
    """The cluster that client tests share. Asked for before anything that counts threads."""
    shared = request.config.stash[RUN].shared
    shared.start()
    return shared


@pytest.fixture
def client(shared: Shared, loop: Any) -> Iterator[Client]:  # noqa: F811
    """The fixture of `distributed.utils_test`, with another cluster behind it."""
    with shared.dial(loop=loop) as client:
        yield client


@pytest.fixture
def client_secondary(shared: Shared, loop: Any) -> Iterator[Client]:  # noqa: F811
    """A second client of the same cluster."""
    with shared.dial(loop=loop) as client:
        yield client
