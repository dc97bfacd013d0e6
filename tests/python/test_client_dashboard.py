"""The proxy behind `dashboard_link`, with a program in place of the binary: started once, ended surely, never raising."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask.config
import pytest

from towline._binary import Binary
from towline._dashboard import Dashboard

SAYS = '{"link": "http://127.0.0.1:8787/5ec4e7/status", "host": "127.0.0.1", "port": 8787, "secret": "5ec4e7"}'
LINK = "http://127.0.0.1:8787/5ec4e7/status"


def program(folder: Path, body: str) -> Path:
    path = folder / "towline"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{textwrap.dedent(body)}")
    path.chmod(0o755)
    return path


def proxy(folder: Path, says: str = SAYS) -> Path:
    """Counts its starts, says its word and stays until its standard input is closed."""
    return program(
        folder,
        f"""
        open({str(folder / "starts")!r}, "a").write(" ".join(sys.argv[1:]) + f" {{os.getpid()}}\\n")
        print({says!r}, flush=True)
        sys.stdin.read()
        """,
    )


def starts(folder: Path) -> list[str]:
    return (folder / "starts").read_text().splitlines()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_one_child_gives_the_link_until_it_is_closed(tmp_path: Path) -> None:
    notes: list[str] = []
    dashboard = Dashboard(Binary(proxy(tmp_path)), notes.append)
    assert [dashboard.link("cl-a", 20) for _ in range(3)] == [LINK] * 3
    (line,) = starts(tmp_path)
    assert line.startswith("cluster dashboard cl-a --json --until-stdin-closes ")
    dashboard.close()
    dashboard.close()
    assert gone(int(line.split()[-1])), "neither running nor a zombie"
    assert dashboard.link("cl-a", 20) == ""
    assert (len(starts(tmp_path)), notes) == (1, [])


def test_the_secret_follows_the_port_in_a_form_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada")
    dashboard = Dashboard(Binary(proxy(tmp_path)), notes.append)
    for template, link in [
        ("{JUPYTERHUB_SERVICE_PREFIX}/proxy/{port}/status", "/user/ada/proxy/8787/5ec4e7/status"),
        ("/proxy/{host}:{port}/graph", "/proxy/127.0.0.1:8787/5ec4e7/graph"),
        ("{scheme}://{host}:{port}/status", LINK),
        ("{NOT_THERE}/{port}", LINK),
    ]:
        with dask.config.set({"distributed.dashboard.link": template}):
            assert dashboard.link("cl-a", 20) == link
    assert len(notes) == 1 and "NOT_THERE" in notes[0]
    dashboard.close()


def test_what_cannot_be_had_is_an_empty_link_and_one_note(tmp_path: Path) -> None:
    notes: list[str] = []
    says = '{"event": "error", "code": "gateway_unreachable", "message": "Nobody there", "remedy": "Look."}'
    dashboard = Dashboard(Binary(proxy(tmp_path, says)), notes.append)
    assert [dashboard.link("cl-a", 20) for _ in range(2)] == ["", ""]
    assert notes == ["there is no dashboard: Nobody there Look."]
    dashboard.close()
    ended = Dashboard(Binary(program(tmp_path, "sys.exit(3)")), notes.append)
    assert [ended.link("cl-a", 20) for _ in range(2)] == ["", ""]
    assert notes[1:] == ["there is no dashboard: `towline cluster dashboard` ended with status 3"]
    missing = Dashboard(Binary(tmp_path / "nowhere"), notes.append)
    assert missing.link("cl-a", 20) == "" and "could not be started" in notes[2]


def test_a_silent_proxy_is_waited_for_only_so_long(tmp_path: Path) -> None:
    dashboard = Dashboard(Binary(program(tmp_path, "sys.stdin.read()")), lambda _: None)
    begun = time.monotonic()
    assert dashboard.link("cl-a", 0.2) == ""
    assert time.monotonic() - begun < 5
    dashboard.close()


def test_a_proxy_that_ignores_its_closed_input_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towline._dashboard._END_SECONDS", 0.3)
    dashboard = Dashboard(Binary(program(tmp_path, f"print({SAYS!r}, flush=True)\ntime.sleep(600)")), lambda _: None)
    assert dashboard.link("cl-a", 20) == LINK
    process = dashboard._child.process
    dashboard.close()
    assert process.returncode == -15


def test_the_interpreters_end_ends_the_proxy(tmp_path: Path) -> None:
    source = f"""
        from pathlib import Path
        from towline._binary import Binary
        from towline._dashboard import Dashboard
        dashboard = Dashboard(Binary(Path({str(proxy(tmp_path))!r})), print)
        print(dashboard.link("cl-a", 20))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == LINK
    assert gone(int(starts(tmp_path)[0].split()[-1]))
