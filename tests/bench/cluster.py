"""First figures: a cluster's start, a sync, and an agent at rest, each beside its peer or floor in the same run.

Rounds alternate between ours and the peer, so that what else the machine does falls on both; medians are given. Run by
`cargo xtask bench`, which gives the released binary, uv and an interpreter with Dask.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: One round's workers; the machine that these figures were first taken on has two cores.
WORKERS = 2
#: Seconds over which an agent at rest is watched.
REST = 20.0


@contextmanager
def control_plane(binary: str, data: Path) -> Iterator[Path]:
    """A server of its own; gives the file with the profile that names it."""
    subprocess.run([binary, "server", "init", "--data-dir", data], check=True, stdout=subprocess.DEVNULL)
    anywhere = [word for name in ("people", "agents", "blobs") for word in (f"--{name}", "127.0.0.1:0")]
    with (data / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [binary, "server", "run", "--until-stdin-closes", "--data-dir", data, *anywhere],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    try:
        ready = data / "server" / "run.json"
        until = time.monotonic() + 30
        while not ready.exists():
            if time.monotonic() > until or server.poll() is not None:
                raise SystemExit(f"the server does not start: see {data / 'server.log'}")
            time.sleep(0.02)
        run = json.loads(ready.read_text())
        token = (data / "server" / "admin.token").read_text().strip()
        profile = data / "profiles.toml"
        profile.touch(mode=0o600)
        profile.write_text(
            f'default = "bench"\n[profile.bench]\nurl = "{run["people_url"]}"\n'
            f'ca_file = "{run["ca_file"]}"\ntoken = "{token}"\n'
        )
        yield profile
    finally:
        if server.stdin is not None:
            server.stdin.close()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


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


def rss(pid: int) -> float:
    """Resident memory in MiB (proc(5), `VmRSS`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu(pid: int) -> float:
    """CPU seconds so far (proc(5), `utime` and `stime`)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
            "agent_rss": statistics.median(map(rss, agents)),
            "nanny_rss": statistics.median(map(rss, nannies)),
            "agent_cpu": statistics.median(used[pid] for pid in agents),
            "nanny_cpu": statistics.median(used[pid] for pid in nannies),
        }


def spin() -> float:
    """Millions of loop rounds in a second of one core: a machine that is busy otherwise shows here."""
    until, rounds = time.perf_counter() + 1, 0
    while time.perf_counter() < until:
        rounds += 1
    return rounds / 1e6


def row(name: str, ours: float, peer: str, theirs: float, unit: str) -> dict[str, Any]:
    """One line of the table."""
    return {"name": name, "ours": ours, "peer": peer, "theirs": theirs, "unit": unit}


def rounds(count: int, say: Callable[[str], None], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, in order."""
    work = Path(arguments.work)
    idle = [spin()]
    say("cold: a server that has never seen this environment")
    colds, uvs = [], []
    freeze = work / "requirements.txt"
    listed = subprocess.run(
        [arguments.uv, "pip", "freeze", "--python", sys.executable], check=True, capture_output=True, text=True
    )
    freeze.write_text("".join(line + "\n" for line in listed.stdout.splitlines() if "==" in line))
    for number in range(max(1, count // 2)):
        with control_plane(arguments.towline, work / f"cold-{number}") as profile:
            os.environ["TOWLINE_CONFIG"] = str(profile)
            colds.append(ours())
        uvs.append(uv_sync(arguments.uv, freeze, work))
        say(f"  first result after {colds[-1]['result']:.2f} s, sync {colds[-1]['sync']:.2f} s; uv {uvs[-1]:.2f} s")
    warms, locals_ = [], []
    with control_plane(arguments.towline, work / "warm") as profile:
        os.environ["TOWLINE_CONFIG"] = str(profile)
        ours()
        say("warm: alternating with Dask's LocalCluster")
        for _ in range(count):
            warms.append(ours())
            locals_.append(local())
            say(f"  first result after {warms[-1]['result']:.2f} s; LocalCluster {locals_[-1]:.2f} s")
        say(f"at rest: {REST:.0f} s")
        rest = at_rest(work / "warm")
    idle.append(spin())
    middle = statistics.median
    return {
        "rounds": count,
        "spin": idle,
        "rows": [
            row("start, warm: call to first result", middle(warm["result"] for warm in warms),
                "LocalCluster, no TLS, no hosts", middle(locals_), "s"),
            row("start, cold: call to first result", middle(cold["result"] for cold in colds),
                "LocalCluster, no TLS, no hosts", middle(locals_), "s"),
            row("sync of a new environment, warm cache", middle(cold["sync"] for cold in colds),
                "uv venv + uv pip sync", middle(uvs), "s"),
            row("sync that finds it there", middle(warm["sync"] for warm in warms),
                "uv venv + uv pip sync", middle(uvs), "s"),
            row("agent at rest: resident memory", rest["agent_rss"], "Dask's nanny", rest["nanny_rss"], "MiB"),
            row("agent at rest: CPU", rest["agent_cpu"], "Dask's nanny", rest["nanny_cpu"], "% of a core"),
        ],
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | Towline | beside | its figure | ratio |", "| --- | ---: | --- | ---: | ---: |"]
    for entry in rows:
        ratio = entry["ours"] / entry["theirs"] if entry["theirs"] else float("nan")
        figures = [f"{entry[whose]:.2f} {entry['unit']}" for whose in ("ours", "theirs")]
        lines.append(f"| {entry['name']} | {figures[0]} | {entry['peer']} | {figures[1]} | {ratio:.2f} |")
    return "\n".join(lines)


def page(found: dict[str, Any], text: str, binary: str) -> str:
    """The page of figures."""
    cores, size = os.cpu_count(), Path(binary).stat().st_size / 1e6
    before, after = found["spin"]
    distributed = __import__("distributed").__version__
    count, day = found["rounds"], time.strftime("%Y-%m-%d", time.gmtime())
    colds = max(1, count // 2)
    return f"""# First figures

Written by `cargo xtask bench`; nothing is gated by these numbers. Medians of {count} rounds ({colds} cold), ours
and the peer alternating in one run on {cores} cores: released binary ({size:.0f} MB), Python {sys.version.split()[0]},
distributed {distributed}, {day}. A loop on one core turned {before:.1f} million times in a second before and
{after:.1f} after: where these differ by more than a tenth, the machine did something else, too.

{text}

## Where the time goes

- A start is the host's own way (agent process, enrolment, certificate, assignment), then Python's imports in scheduler
  and workers at once. `LocalCluster` has the imports alone: no TLS, no hosts, no packages, its workers started from a
  warm parent.
- A cold start adds the sync: solving is cached on the person's machine, wheels come from uv's cache, files are linked.
- The agent at rest takes samples, answers leases and looks after log files. There is one for each host; a nanny is one
  for each worker.

Not here yet: log shipping beside rsyslog, sessions by the thousand (`towline agent --simulate`).
"""


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--towline", required=True)
    parser.add_argument("--uv", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--page", help="Markdown file to write")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    os.environ["TOWLINE_BINARY"] = arguments.towline
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = rounds(arguments.rounds, lambda line: print(line, file=sys.stderr, flush=True), arguments)
    text = table(found["rows"])
    print(text)
    if arguments.page:
        Path(arguments.page).write_text(page(found, text, arguments.towline))


if __name__ == "__main__":
    main()
