"""A cluster's start, a sync, and an agent at rest, each beside its peer or floor in the same run.

Rounds alternate between ours and the peer, so that what else the machine does falls on both.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parts import Bench, Row, control_plane, cpu, status

#: One round's workers; the machine that these figures were first taken on has two cores.
WORKERS = 2
#: Seconds over which an agent at rest is watched.
REST = 20.0


def answer(cluster: Any) -> None:
    """Until every worker is there and the first result is here."""
    from distributed import Client

    with Client(cluster) as client:
        client.wait_for_workers(WORKERS, timeout=120)
        assert client.submit(sum, [1, 2, 3], pure=False).result(timeout=60) == 6


def ours() -> dict[str, float]:
    """One cluster of ours: seconds to its first result, and of that the workers' sync."""
    import towline

    begun = time.monotonic()
    with towline.Cluster(
        n_workers=WORKERS, worker_threads=1, progress=False, idle_timeout=None, wait_for_workers=True
    ) as cluster:
        answer(cluster)
        taken = time.monotonic() - begun
        hosts = cluster.details["hosts"]
    synced = [phase["millis"] / 1000 for host in hosts for phase in host["phases"] if phase["phase"] == "synced"]
    return {"result": taken, "sync": max(synced)}


def local() -> float:
    """Dask's own cluster of processes on this machine, without TLS, hosts or packages: as little as it can be."""
    from distributed import LocalCluster

    begun = time.monotonic()
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster:
        answer(cluster)
        return time.monotonic() - begun


def uv_sync(uv: str, requirements: Path, work: Path) -> float:
    """Uv's own install of the same packages into a new environment, from its warm cache."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        begun = time.monotonic()
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, f"{folder}/v"], check=True)
        command = [uv, "pip", "sync", "--quiet", "--system-certs", "--python", f"{folder}/v/bin/python", requirements]
        subprocess.run(command, check=True)
        return time.monotonic() - begun


def processes(word: str, below: Path | None = None) -> list[int]:
    """Processes whose arguments hold `word`, and the folder if one is given."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in command and (below is None or str(below) in command):
            found.append(int(entry.name))
    return found


def at_rest(data: Path) -> dict[str, float]:
    """Agents of a cluster that does nothing, beside Dask's nannies on the same machine."""
    import towline

    with towline.Cluster(
        n_workers=WORKERS, worker_threads=1, progress=False, idle_timeout=None, wait_for_workers=True
    ) as cluster:
        nannies = list(cluster.get_client().run(os.getpid, nanny=True).values())
        agents = processes(" agent --host-dir", data)
        before = {pid: cpu(pid) for pid in agents + nannies}
        time.sleep(REST)
        used = {pid: 100 * (cpu(pid) - before[pid]) / REST for pid in before}
        return {
            "agent_rss": statistics.median(map(resident, agents)),
            "nanny_rss": statistics.median(map(resident, nannies)),
            "agent_cpu": statistics.median(used[pid] for pid in agents),
            "nanny_cpu": statistics.median(used[pid] for pid in nannies),
        }


def resident(pid: int) -> float:
    """Memory of a process in MiB."""
    return status(pid, "VmRSS")


def start(bench: Bench) -> list[Row]:
    """Starts and syncs: first on servers that have never seen the environment, then on one that has."""
    bench.peers["distributed"] = __import__("distributed").__version__
    bench.peers["uv"] = subprocess.run(
        [bench.uv, "--version"], check=True, capture_output=True, text=True
    ).stdout.split()[1]
    bench.say("  cold: a server that has never seen this environment")
    colds, uvs = [], []
    freeze = bench.work / "requirements.txt"
    listed = subprocess.run(
        [bench.uv, "pip", "freeze", "--python", sys.executable], check=True, capture_output=True, text=True
    )
    freeze.write_text("".join(line + "\n" for line in listed.stdout.splitlines() if "==" in line))
    for number in range(max(1, bench.rounds // 2)):
        with control_plane(bench.towline, bench.work / f"cold-{number}") as profile:
            os.environ["TOWLINE_CONFIG"] = str(profile)
            colds.append(ours())
        uvs.append(uv_sync(bench.uv, freeze, bench.work))
        bench.say(
            f"  first result after {colds[-1]['result']:.2f} s, sync {colds[-1]['sync']:.2f} s; uv {uvs[-1]:.2f} s"
        )
    warms, locals_ = [], []
    with control_plane(bench.towline, bench.work / "warm") as profile:
        os.environ["TOWLINE_CONFIG"] = str(profile)
        ours()
        bench.say("  warm: alternating with Dask's LocalCluster")
        for _ in range(bench.rounds):
            warms.append(ours())
            locals_.append(local())
            bench.say(f"  first result after {warms[-1]['result']:.2f} s; LocalCluster {locals_[-1]:.2f} s")

    def of(rounds: Sequence[dict[str, float]], what: str) -> list[float]:
        return [one[what] for one in rounds]

    dask, uv = "LocalCluster, no TLS, no hosts", "uv venv + uv pip sync"
    return [
        Row("start, warm: call to first result", "s", of(warms, "result"), dask, locals_),
        Row("start, cold: call to first result", "s", of(colds, "result"), dask, locals_),
        Row("sync of a new environment, warm cache", "s", of(colds, "sync"), uv, uvs),
        Row("sync that finds it there", "s", of(warms, "sync"), uv, uvs),
    ]


def rest(bench: Bench) -> list[Row]:
    """An agent at rest, and Dask's nannies beside it."""
    bench.peers["distributed"] = __import__("distributed").__version__
    with control_plane(bench.towline, bench.work / "rest") as profile:
        os.environ["TOWLINE_CONFIG"] = str(profile)
        bench.say(f"  {REST:.0f} s of rest")
        seen = at_rest(bench.work / "rest")
    return [
        Row("agent at rest: resident memory", "MiB", [seen["agent_rss"]], "Dask's nanny", [seen["nanny_rss"]]),
        Row("agent at rest: CPU", "% of a core", [seen["agent_cpu"]], "Dask's nanny", [seen["nanny_cpu"]]),
    ]


def where_start(_found: Sequence[Row]) -> list[str]:
    """Where the time goes."""
    return [
        "A start is the host's own way (agent process, enrolment, certificate, assignment), then Python's imports in "
        "scheduler and workers at once. `LocalCluster` has the imports alone: no TLS, no hosts, no packages, its "
        "workers started from a warm parent.",
        "A cold start adds the sync: solving is cached on the person's machine, wheels come from uv's cache, files are "
        "linked.",
    ]


def where_rest(_found: Sequence[Row]) -> list[str]:
    """Where the time goes."""
    return [
        "The agent at rest takes samples, answers leases and looks after log files. There is one for each host; a "
        "nanny is one for each worker."
    ]
