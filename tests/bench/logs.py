"""Log shipping: the agent's shipper with its `file` sink beside rsyslog's imfile and omfile, the same file, in turns.

Each shipper reads lines from a file and writes them as JSON lines with time, stream, place and text. Neither counts
unless every line is there once: the output is read to the end.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parts import Bench, Row, status

#: Bytes of one line with its end.
LINE = 190
#: A shipper that takes longer is stuck.
LIMIT = 300.0
#: How long rsyslog may take to end once it is told to.
STOP = 30.0

#: Its own configuration, in a folder of its own: it meets nothing of the system's rsyslog. The place in the file is the
#: line's id, as ours; its state is written at its end only, which is its default.
CONFIGURATION = """\
global(workDirectory="{folder}/state")
module(load="imfile" mode="inotify")
template(name="lines" type="list" option.jsonf="on") {{
  property(outname="time" name="timegenerated" dateFormat="unixtimestamp" format="jsonf" datatype="number")
  constant(outname="stream" value="bench" format="jsonf")
  property(outname="id" name="$!metadata!fileoffset" format="jsonf" datatype="number")
  property(outname="line" name="msg" format="jsonf")
}}
ruleset(name="ship") {{ action(type="omfile" file="{folder}/out.jsonl" template="lines") }}
input(type="imfile" file="{source}" tag="bench" addMetadata="on" ruleset="ship")
"""

NUMBERED = re.compile(rb'"line":"(\d{9}) ')

INSTALL = "`apt-get install --no-install-recommends rsyslog` installs it; none of its services needs to run"


@dataclass(frozen=True)
class Shipped:
    """One round of one shipper."""

    wall: float
    cpu: float
    peak: float
    lost: int
    doubled: int


def generate(path: Path, megabytes: int) -> int:
    """Write numbered lines as a worker's log has them, quotes included; gives their number."""
    count = megabytes * 1_000_000 // LINE
    text = ' 2026-11-26 10:00:00,123 - distributed.worker - INFO - task "load-part" took 0.123 s on 4 threads, '
    rest = (text + "memory 1.25 GiB of 4.00 GiB, nothing spilled, next in line " * 2)[: LINE - 10]
    with path.open("w") as out:
        for begin in range(0, count, 10_000):
            out.write("".join(f"{number:09d}{rest}\n" for number in range(begin, min(begin + 10_000, count))))
        out.flush()
        os.fsync(out.fileno())
    return count


def check(files: Sequence[Path], count: int) -> tuple[int, int]:
    """How many of the numbered lines are missing, and how many are there again."""
    seen, doubled = bytearray(count), 0
    for path in files:
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            for found in NUMBERED.finditer(text):
                number = int(found[1])
                if number >= count or seen[number]:
                    doubled += 1
                else:
                    seen[number] = 1
    return count - sum(seen), doubled


def ours(bench: Bench, source: Path, count: int, folder: Path) -> Shipped:
    """Through the agent's own shipper: read, written, synced, remembered and freed on the way."""
    spool, sink = folder / "bench.log", folder / "sink"
    shutil.copyfile(source, spool)
    with spool.open("rb+") as copy:
        os.fsync(copy.fileno())
    process = subprocess.Popen([bench.helper, "ship", spool, sink], stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = json.loads(process.stdout.read())
    used = reap(process)
    if not said["complete"]:
        raise SystemExit(f"the shipper left {said['left']} bytes after {said['seconds']:.0f} s")
    lost, doubled = check(sorted(sink.iterdir()), count)
    return Shipped(said["seconds"], used, said["peak_mib"], lost, doubled)


def reap(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process over its whole life; it must end by itself."""
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode != 0:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def last_number(path: Path) -> int:
    """The number of the last whole line; -1 when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            found = NUMBERED.findall(file.read().rpartition(b"\n")[0])
    except FileNotFoundError:
        return -1
    return int(found[-1]) if found else -1


def rsyslog(program: str, source: Path, count: int, folder: Path) -> Shipped:
    """Through rsyslog, until the last line is in its output."""
    (folder / "state").mkdir()
    configuration, out = folder / "rsyslog.conf", folder / "out.jsonl"
    configuration.write_text(CONFIGURATION.format(folder=folder, source=source))
    begun = time.monotonic()
    process = subprocess.Popen([program, "-n", "-f", configuration, "-i", folder / "rsyslog.pid"])
    try:
        while last_number(out) != count - 1:
            if process.poll() is not None or time.monotonic() - begun > LIMIT:
                break
            time.sleep(0.02)
        wall, peak = time.monotonic() - begun, status(process.pid, "VmHWM")
        process.send_signal(signal.SIGTERM)
        return Shipped(wall, reap(process), peak, *check([out], count))
    finally:
        if process.returncode is None:
            process.kill()
            process.wait(STOP)


def find() -> str | None:
    """The rsyslog daemon of this machine; only its program is used."""
    return shutil.which("rsyslogd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def unpacked(bench: Bench) -> str | None:
    """The same from its unpacked package: a script that says where libraries and modules lie."""
    if bench.packages is None:
        return None
    libraries = bench.packages / f"usr/lib/{os.uname().machine}-linux-gnu"
    script = bench.work / "rsyslogd"
    program = shlex.quote(str(bench.packages / "usr/sbin/rsyslogd"))
    modules, libraries_ = shlex.quote(str(libraries / "rsyslog")), shlex.quote(str(libraries))
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries_} exec {program} -M {modules} "$@"\n')
    script.chmod(0o755)
    return str(script)


def version(program: str) -> str:
    """What it says of itself."""
    return named(subprocess.run([program, "-v"], check=True, capture_output=True, text=True).stdout)


def named(said: str) -> str:
    """The version in what it says."""
    words = said.split()
    return words[1] if words[:1] == ["rsyslogd"] and len(words) > 1 else "of unknown version"


def rows(bench: Bench) -> list[Row]:
    """All rounds, ours and the peer's in turns."""
    source = bench.work / "lines.log"
    count = generate(source, bench.megabytes)
    program = find() or unpacked(bench)
    if program:
        bench.peers["rsyslog"] = version(program)
    mine: list[Shipped] = []
    theirs: list[Shipped] = []
    for number in range(bench.rounds):
        for name, taken in (("ours", mine), ("rsyslog", theirs)):
            if name == "rsyslog" and program is None:
                continue
            folder = bench.work / f"logs-{name}-{number}"
            folder.mkdir()
            one = ours(bench, source, count, folder) if name == "ours" else rsyslog(str(program), source, count, folder)
            taken.append(one)
            bench.say(f"  {name}: {count} lines in {one.wall:.2f} s, {one.cpu:.2f} CPU-s, peak {one.peak:.0f} MiB")
            shutil.rmtree(folder)
    source.unlink()
    return judge(mine, theirs, count, program is not None)


def judge(mine: Sequence[Shipped], theirs: Sequence[Shipped], count: int, installed: bool) -> list[Row]:
    """The rows of what was measured. Pure."""
    peer = "rsyslog, imfile to omfile" if installed else f"rsyslog is not installed: {INSTALL}"
    notes = [
        f"{whose}: {sum(one.lost for one in taken)} lines lost, {sum(one.doubled for one in taken)} doubled"
        for whose, taken in (("Towline", mine), ("rsyslog", theirs))
        if any(one.lost or one.doubled for one in taken)
    ]
    note = "; ".join(notes)
    size = count * LINE / 1e6
    return [
        Row("logs: megabytes for a second of CPU", "MB", [size / one.cpu for one in mine], peer,
            [size / one.cpu for one in theirs], note),
        Row(f"logs: {size:.0f} MB, first to last line", "s", [one.wall for one in mine], peer,
            [one.wall for one in theirs], note),
        Row("logs: peak resident memory", "MiB", [one.peak for one in mine], peer,
            [one.peak for one in theirs], note),
        Row("logs: lines lost or doubled, each round", "lines", [one.lost + one.doubled for one in mine], peer,
            [one.lost + one.doubled for one in theirs]),
    ]  # fmt: skip


def where(found: Sequence[Row]) -> list[str]:
    """Where the time goes, as far as these figures say."""
    ours_rate = statistics.median(found[0].ours)
    return [
        f"Shipping spends {1000 / ours_rate:.1f} CPU-ms on a megabyte: every batch (1 MiB at most) is encoded, "
        "written, synced and remembered durably before the next one, and what is delivered is freed. rsyslog by "
        "default syncs nothing and writes its place down at its end, so that it may lose or repeat lines in a crash; "
        "it has several threads and a queue in memory."
    ]
