"""The bench's own arithmetic: what it reads, counts and writes down. No figure is taken here."""

import json
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import logs
import main
import page
import parts
import sessions
import stores
from parts import Bench, Row


def bench(work, rounds=2):
    return Bench("towline", "helper", "uv", work, rounds, 1, [2], lambda line: None)


def test_reads_what_the_kernel_says():
    stat_text = "12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 70 30 1 1 20 0 1 0 5 6 7\n"
    assert parts.ticks(stat_text) == 100
    assert parts.size_of("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n", "VmRSS") == 1.0
    assert parts.size_of("VmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n", "VmHWM") == 2.0


def test_a_percentile_is_one_of_the_values():
    hundred = list(range(100, 0, -1))
    assert [parts.percentile(hundred, part) for part in (0, 50, 99, 99.1, 100)] == [1, 50, 99, 100, 100]
    assert parts.percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        parts.percentile([], 99)


def test_a_ratio_is_of_medians_and_of_nothing_there_is_none():
    assert Row("r", "s", [1, 9, 3], "p", [2, 100, 2]).ratio() == 1.5
    assert Row("r", "s", [1], "p").ratio() is None
    assert Row("r", "s", [1], "p", [0]).ratio() is None


def test_lines_are_counted_one_by_one(tmp_path):
    source = tmp_path / "lines.log"
    count = logs.generate(source, 1)
    lines = source.read_bytes().splitlines()
    assert len(lines) == count == 5263
    assert {len(line) for line in lines} == {logs.LINE - 1}
    shipped = [json.dumps({"id": 1, "line": line.decode()}, separators=(",", ":")) + "\n" for line in lines]
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("".join(shipped[:3000]))
    two.write_text("".join(shipped[3000:]))
    assert logs.check([one, two], count) == (0, 0)
    assert logs.last_number(two) == count - 1
    two.write_text("".join(shipped[3001:] + shipped[:2]) + shipped[5][:50])
    assert logs.check([one, two], count) == (1, 3)
    assert logs.last_number(two) == 1, "a line that is half there does not count"
    assert logs.last_number(tmp_path / "absent") == -1


def test_reads_rsyslogs_version():
    assert logs.named("rsyslogd  8.2302.0 (aka 2023.02) compiled with:\n") == "8.2302.0"
    assert logs.named("") == logs.named("rsyslogd\n") == "of unknown version"


def test_without_rsyslog_the_row_says_so_and_how_to_get_it():
    shipped = logs.Shipped(2.0, 0.5, 8.0, 0, 0)
    rows = logs.judge([shipped], [], 100_000, installed=False)
    assert rows[0].ours == [38.0]
    assert all(row.ratio() is None for row in rows)
    assert "rsyslog is not installed: `apt-get install" in page.table(rows)


def test_a_shipper_that_lost_lines_says_so():
    whole, bad = logs.Shipped(2.0, 0.5, 8.0, 0, 0), logs.Shipped(1.0, 0.1, 8.0, 3, 1)
    rows = logs.judge([whole, whole], [whole, bad], 100_000, installed=True)
    assert "rsyslog: 3 lines lost, 1 doubled." in page.table(rows)
    assert "Towline:" not in page.table(rows)


def test_rounds_take_turns_and_a_missing_peer_leaves_ours(tmp_path, monkeypatch):
    turns = []

    def take(name):
        def one(*arguments):
            turns.append((name, arguments[-1].is_dir()))
            return logs.Shipped(1.0, 1.0, 1.0, 0, 0)

        return one

    monkeypatch.setattr(logs, "ours", take("ours"))
    monkeypatch.setattr(logs, "rsyslog", take("rsyslog"))
    monkeypatch.setattr(logs, "version", lambda program: "1")
    for found, expected in (("rsyslogd", ["ours", "rsyslog"] * 2), (None, ["ours"] * 2)):
        turns.clear()
        monkeypatch.setattr(logs, "find", lambda found=found: found)
        logs.rows(bench(tmp_path))
        assert turns == [(name, True) for name in expected]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_an_unpacked_rsyslog_is_told_where_its_libraries_lie(tmp_path):
    one = bench(tmp_path)
    assert logs.unpacked(one) is None
    one.packages = tmp_path / "ro ot"
    script = Path(logs.unpacked(one))
    assert script.stat().st_mode & stat.S_IXUSR
    assert f"exec '{tmp_path}/ro ot/usr/sbin/rsyslogd' -M" in script.read_text()


def test_a_cursor_is_as_far_as_its_newest_slot(tmp_path):
    cursor = tmp_path / "a.cursor"
    assert stores.offset(cursor) == 0
    slot = 'towline-cursor-0 {} sha256:ab {{"offset":{},"base":0,"parts":0,"gap":null}}\n'
    cursor.write_text(slot.format(9, 50).ljust(4096) + slot.format(10, 70).ljust(4096))
    assert stores.offset(cursor) == 70


def test_stores_become_rows_and_a_missing_peer_says_how_to_get_it():
    mine, theirs = logs.Shipped(2.0, 0.5, 16.0, 0, 0), logs.Shipped(2.0, 2.0, 32.0, 1, 2)
    azure, late = stores.STORES[1], [0.5, 2.75, 5.0]
    rows = stores.judge(azure, [mine], [theirs], late, 100_000, there=True)
    ratios = {row.name.removeprefix("logs to Azure Monitor: "): row.ratio() for row in rows}
    assert ratios["megabytes for a second of CPU"] == 4.0
    assert ratios["peak resident memory"] == 0.5
    assert ratios["line to acknowledged, p50"] == 1.0
    assert [row.theirs for row in rows if "lost" in row.name or "doubled" in row.name] == [[1], [2]]
    assert "apt-get download" in page.table(stores.judge(azure, [mine], [], late, 100_000, there=False))
    assert "cannot sign" in page.table(stores.judge(stores.STORES[0], [mine], [], late, 100_000, there=True))
    assert "26.3 to 26.3 CPU-ms" in stores.where(rows)[0]


def test_a_fleet_is_clusters_of_a_hundred():
    assert sessions.sizes(2) == [2]
    assert sessions.sizes(100) == [100]
    assert sessions.sizes(250) == [100, 100, 50]


def test_a_fleet_becomes_rows_and_sentences():
    found = sessions.Found(20, 3.0, 100.0, 2.0, 900.0, 120.0, 700.0, 300.0, 4.5)
    rows = sessions.judge([(found, sessions.Floor(0.5, 450.0, 50.0, 60.0))])
    ratios = {row.name: row.ratio() for row in rows}
    assert ratios["20 sessions: control plane's memory for each"] == 2.0
    assert ratios["20 sessions: CPU for a report, one a second"] == 5.0
    assert ratios["20 sessions: killed server listens to all joined again"] == 4.0
    assert ratios["20 sessions: report to lease, p99, one a second"] is None
    assert "Of 20 sessions, at one report in 30 s a report takes 700 µs" in sessions.where(rows)[0]


def test_a_table_shows_medians_and_spread():
    text = page.table([Row("a", "s", [1.0, 3.0, 2.0], "peer", [4.0]), Row("b", "MiB", [123.4], "none")])
    assert "| a | 2 s (1 to 3) | peer | 4 s | 0.50 |" in text
    assert "| b | 123 MiB | none | - | - |" in text


def test_the_page_names_profile_and_peers_but_no_place(tmp_path):
    binary = tmp_path / "towline"
    binary.write_bytes(b"x" * 2_000_000)
    taken = page.Taken([Row("a", "s", [1.0], "p")], ["Somewhere."], {"rsyslog": "8"}, (9, 9), 7, True, str(binary))
    text = page.page(taken)
    assert "debug binary: these figures say nothing" in " ".join(text.split())
    assert "rsyslog 8" in text
    assert "- Somewhere." in text
    assert str(tmp_path) not in text
    released = page.page(page.Taken([], [], {}, (9, 9), 7, False, str(binary)))
    assert "released binary (2 MB)" in " ".join(released.split())


@pytest.mark.parametrize(
    ("debug", "allow", "written"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_no_page_comes_from_a_debug_binary_unless_asked_for(tmp_path, monkeypatch, debug, allow, written):
    binary, out = tmp_path / "towline", tmp_path / "performance.md"
    said = json.dumps({"version": "0", "debug": debug})
    binary.write_text(f"#!/bin/sh\necho '{said}'\n")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    row = Row("a", "s", [1.0], "p", [2.0])
    monkeypatch.setattr(main, "ROWS", {"only": (lambda bench: [row], lambda rows: ["Nowhere."])})
    monkeypatch.setattr(main, "spin", lambda: 1.0)
    monkeypatch.setattr(main.signal, "signal", lambda *arguments: None)
    monkeypatch.setenv("TOWLINE_BINARY", "restored afterwards")
    words = ["--towline", str(binary), "--helper", "h", "--cloud", "cloud", "--uv", "u", "--work", str(tmp_path), "--page", str(out)]
    monkeypatch.setattr(sys, "argv", ["main.py", *words, *(["--allow-debug"] if allow else [])])
    if written:
        main.main()
        assert "Nowhere." in out.read_text()
    else:
        with pytest.raises(SystemExit, match="debug binary"):
            main.main()
    assert out.exists() == written
