"""A host that systemd booted, in a cluster.

With `work`, what happens to its agent does not touch its Dask processes. With `shutdown`, its machine is powered off, and
the host says so and ends first.

Runs as root inside the node, with the interpreter of a demo that ran there before. One host of the cluster becomes the
node itself (the scheduler's, or the worker's that is powered off), the others are processes of the `local` backend.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

DATA = pathlib.Path("/srv/world")
HOST = pathlib.Path("/var/lib/towline/host")
TASK_SECONDS = 45

FIRST = f"""#!/bin/sh
rmdir {DATA}/take 2>/dev/null || exec /usr/bin/towline "$@"
mkdir {DATA}/first && cp "$3/user-data.json" {DATA}/first/part && mv {DATA}/first/part {DATA}/first/user-data.json
exec sleep 600
"""


def run(*command: str) -> str:
    """What a program prints; it must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def until(what: str, fits, seconds: float = 60.0):
    """Wait for something true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := fits():
            return found
        time.sleep(0.1)
    raise SystemExit(f"{what} does not happen")


def server() -> subprocess.Popen:
    """A control plane, and the profile that leads to it."""
    DATA.mkdir()
    run("towline", "server", "init", "--data-dir", str(DATA / "data"))
    # Nobody is to wait for half an hour until an agent counts as dead; a busy machine's needs a while to come back.
    folder = DATA / "data/server/server.toml.d"
    folder.mkdir()
    (folder / "50-test.toml").write_text('[rules]\nagent_lost = "40s"\n')
    program = DATA / "agent"
    program.write_text(FIRST)
    program.chmod(0o755)
    command = ["towline", "server", "run", "--until-stdin-closes", "--data-dir", str(DATA / "data")]
    command += ["--people", "127.0.0.1:0", "--agents", "127.0.0.1:0", "--blobs", "127.0.0.1:0"]
    log = (DATA / "server.log").open("w")
    serving = subprocess.Popen(
        [*command, "--agent-program", str(program)], stdin=subprocess.PIPE, stdout=log, stderr=log
    )
    file = DATA / "data/server/run.json"
    until("a control plane", file.exists)
    seen = json.loads(file.read_text())
    token = (DATA / "data/server/admin.token").read_text().strip()
    profile = f'url = "{seen["people_url"]}"\nca_file = "{seen["ca_file"]}"\ntoken = "{token}"\n'
    profiles = DATA / "profiles.toml"
    profiles.write_text(f'default = "test"\n[profile.test]\n{profile}')
    profiles.chmod(0o600)
    os.environ.update(TOWLINE_CONFIG=str(profiles), TOWLINE_BINARY="/usr/bin/towline")
    return serving


def enrol(settings: str = "") -> None:
    """The node becomes the cluster's first host."""
    user_data = DATA / "first/user-data.json"
    until("a host", user_data.exists)
    HOST.mkdir(parents=True)
    shutil.copy(user_data, HOST)
    (HOST / "agent.toml").write_text(settings)
    run("chown", "-R", "towline:towline-dask", "/var/lib/towline")
    run("systemctl", "start", "towline-agent.service")


def dask() -> list[str]:
    """The processes of Dask's user: pids with what they are."""
    lines = subprocess.run(["ps", "-U", "towline-dask", "-o", "pid=,args="], capture_output=True, text=True).stdout
    return sorted(" ".join(line.split()[:4]) for line in lines.splitlines())


def main_pid() -> str:
    """The agent's."""
    return run("systemctl", "show", "--value", "-p", "MainPID", "towline-agent.service")


def adopted() -> int:
    """How often an agent took up a runner again."""
    return run("journalctl", "--no-pager", "-u", "towline-agent.service").count("the runner was adopted")


def disturb(name: str, times: int, act) -> None:
    """Do something to the agent; another one must be there afterwards, and the same processes of Dask."""
    before, old = dask(), main_pid()
    act(old)
    until(f"another agent after {name}", lambda: main_pid() not in ("0", old))
    until(f"an adoption after {name}", lambda: adopted() >= times)
    if dask() != before:
        raise SystemExit(f"{name} changed Dask's processes: {before} became {dask()}")
    print("ok", name)


def replace(_: str) -> None:
    """What a package does at an upgrade."""
    program = pathlib.Path("/usr/lib/towline/towline-agent")
    shutil.copy(program, program.with_name("new"))
    program.with_name("new").rename(program)
    run("systemctl", "restart", "towline-agent.service")


def hang(pid: str) -> None:
    """It stays and does nothing more: the service manager must find out."""
    run("kill", "-STOP", pid)


def die() -> None:
    """An agent that cannot be started any more, on a machine that may be powered off."""
    import towline

    (DATA / "take").mkdir()
    with towline.Cluster(n_workers=1, wait_for_workers=False, progress=False, idle_timeout="10m") as cluster:
        with cluster.get_client() as client:
            client.wait_for_workers(1, timeout=60)
            print("ok up", flush=True)
            folder = pathlib.Path("/run/systemd/system/towline-agent.service.d")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "broken.conf").write_text("[Service]\nExecStart=\nExecStart=/bin/false\n")
            run("systemctl", "daemon-reload")
            run("kill", "-9", main_pid())
            time.sleep(600)


def work() -> None:
    """One cluster, disturbed."""
    import towline

    (DATA / "take").mkdir()
    with towline.Cluster(n_workers=1, wait_for_workers=False, progress=False, idle_timeout="10m") as cluster:
        with cluster.get_client() as client:
            client.wait_for_workers(1, timeout=60)
            future = client.submit(lambda: time.sleep(TASK_SECONDS) or os.getpid())
            time.sleep(1)
            if not any("runner" in line for line in dask()) or len(dask()) < 2:
                raise SystemExit(f"Dask does not run as its own user: {dask()}")
            disturb("restart", 1, lambda _: run("systemctl", "restart", "towline-agent.service"))
            disturb("kill -9", 2, lambda pid: run("kill", "-9", pid))
            disturb("upgrade", 3, replace)
            disturb("hang", 4, hang)
            if not future.result(timeout=60):
                raise SystemExit("the task is lost")
            print("ok task")
    until("an end of Dask's processes", lambda: not dask())
    print("ok end")


def shutdown() -> None:
    """One cluster; a worker's machine, this one, is powered off."""
    import towline

    with towline.Cluster(n_workers=0, wait_for_workers=False, progress=False, idle_timeout="10m") as cluster:
        with cluster.get_client() as client:
            (DATA / "take").mkdir()
            cluster.scale(1)
            client.wait_for_workers(1, timeout=60)
            print("ok worker", flush=True)
        name = cluster.name
        # Stopped after the agent: what the control plane heard by then can still be asked for.
        hold = ["-p", "Before=towline-agent.service", "-p", "ExecStop=/bin/sleep 5", "sleep", "infinity"]
        run("systemd-run", "--unit=hold", *hold)
        run("systemctl", "poweroff", "--no-block")
        # From here on until the system kills what is no unit; what was heard by then is read from outside.
        while True:
            (DATA / "agent.log").write_text(run("journalctl", "--no-pager", "-o", "cat", "-u", "towline-agent.service"))
            said = subprocess.run(["towline", "cluster", "events", name], capture_output=True, text=True).stdout
            part = DATA / "heard.part"
            part.write_text(said)
            part.rename(DATA / "heard")
            time.sleep(0.1)


if __name__ == "__main__":
    import threading

    # What an earlier call left; its enrolment counts until then.
    run("systemctl", "stop", "towline-agent.service", "towline-bootstrap.service")
    shutil.rmtree(DATA, ignore_errors=True)
    shutil.rmtree(HOST, ignore_errors=True)
    serving = server()
    machine = 'platform = "onprem"\npower_off_at_end = true\n' if sys.argv[1] == "die" else ""
    enrolling = threading.Thread(target=enrol, args=(machine,), daemon=True)
    enrolling.start()
    try:
        {"die": die, "shutdown": shutdown, "work": work}[sys.argv[1]]()
    finally:
        serving.stdin.close()
        serving.wait(timeout=60)
