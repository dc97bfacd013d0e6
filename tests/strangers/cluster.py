"""The cluster that a stranger's client tests share, of either kind, in a process of its own.

Owns starting and ending it. Prints one line of JSON that says how to reach it, then waits for the end of its standard
input. A process of its own, as the tests count threads, clients and connections of theirs. Driven by `plugin.py`.

    cluster.py stock|towline
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: As many as `distributed.utils_test.cluster` makes, of one thread each: tests count on it.
WORKERS = 2
#: For the first cluster too, whose packages have to be installed.
START_SECONDS = 300


@contextlib.contextmanager
def stock() -> Iterator[dict[str, str]]:
    """Dask's own programs, on this machine, without TLS."""
    from distributed import Client

    with tempfile.TemporaryDirectory(prefix="dask-stock-") as folder:
        place = str(Path(folder) / "scheduler.json")
        dask = [sys.executable, "-m", "dask"]
        common = ["--scheduler-file", place, "--no-dashboard", "--interface", "lo"]
        worker = ["--nthreads", "1", "--local-directory", folder, "--nworkers", str(WORKERS)]
        programs = [
            subprocess.Popen([*dask, "scheduler", "--port", "0", *common], cwd=folder, stdout=sys.stderr),
            subprocess.Popen([*dask, "worker", *worker, *common], cwd=folder, stdout=sys.stderr),
        ]
        try:
            with Client(scheduler_file=place, timeout=START_SECONDS) as client:
                client.wait_for_workers(WORKERS, timeout=START_SECONDS)
                address = client.scheduler.address
            yield {"address": address}
        finally:
            for program in reversed(programs):
                program.terminate()
            for program in programs:
                try:
                    program.wait(20)
                except subprocess.TimeoutExpired:
                    program.kill()
                    program.wait()


@contextlib.contextmanager
def ours() -> Iterator[dict[str, str]]:
    """A cluster of Towline with the packages of this interpreter: the test modules reach its workers this way."""
    import towline

    with towline.Cluster(
        n_workers=WORKERS,
        worker_threads=1,
        wait_for_workers=True,
        timeout=START_SECONDS,
        idle_timeout=None,
        progress="plain",
    ) as cluster:
        security = cluster.security
        yield {
            "address": cluster.scheduler_address,
            "ca": security.tls_ca_file,
            "certificate": security.tls_client_cert,
            "key": security.tls_client_key,
        }


def main() -> None:
    """Start, tell, wait, end."""
    kinds = {"stock": stock, "towline": ours}
    with kinds[sys.argv[1]]() as place:
        print(json.dumps(place), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
