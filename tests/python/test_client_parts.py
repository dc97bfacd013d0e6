"""The parts of the Python package by themselves: arguments, profiles, events, certificates, progress, the binary."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import re
import ssl
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import towline
from client_fakes import TOKEN, Authority, Workbench, member_uri, plain_server, random_id
from towline import ClusterError, _events, _options, _progress, _security, _starting
from towline._advice import Advice
from towline._api import ControlPlane, pause
from towline._binary import Binary, locate
from towline._logs import Wanted, read, streams
from towline._profile import load
from towline._views import ClusterView


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Workbench(tmp_path, monkeypatch)
    yield bench
    bench.close()


def test_a_kill_for_want_of_memory_is_told_once(caplog) -> None:
    reporter = _progress.choose([].append, quiet=True)

    def see(kills: int, pid: int = 7) -> list[str]:
        memory = {"kills": kills, "at": 1, "peak": 272 << 20, "limit": 273 << 20}
        processes = [
            {
                "name": "worker-0",
                "role": "worker",
                "pid": pid,
                "exit": None,
                **({"out_of_memory": memory} if kills else {}),
            }
        ]
        host = {"id": "ho-x", "role": "worker", "state": "up", "phases": [], "processes": processes}
        caplog.clear()
        reporter.cluster(view(hosts=[host]), None)
        return [record.getMessage() for record in caplog.records]

    assert see(0) == []
    told = (
        "the kernel killed a process of worker-0 on ho-x for want of memory; it had reached 272 MiB of at most 273 MiB"
    )
    assert see(1) == [told]
    assert see(1) == []
    assert see(2) == [told]
    assert see(1, pid=8) == [told]


def view(**changes) -> ClusterView:
    fields = {"id": random_id("cl-"), "name": "n", "workspace": "ws-aaaaaaaaaaaaaaaa", "state": "starting"}
    return ClusterView.parse({**fields, **changes})


# -- the package -------------------------------------------------------------------------------------------------------


def test_versions_are_one():
    project = (Path(towline.__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{towline.__version__}"' in project
    assert set(towline.__all__) == {"Cluster", "ClusterEnded", "ClusterError", "__version__", "load_security"}
    assert (Path(towline.__file__).parent / "py.typed").exists()


# -- environment values and the loader ---------------------------------------------------------------------------------


def test_environment_values_are_checked_and_never_shown():
    from towline._environ import parse_environ

    assert parse_environ(None) == {}
    assert parse_environ({"A": "x", "B": 2, "C": 0.5}) == {"A": "x", "B": "2", "C": "0.5"}
    for wrong in (["A"], {"": "secret"}, {"A=B": "secret"}, {1: "secret"}, {"A": b"secret"}, {"A": "secret\0"},
                  {"A": True}, {"TOWLINE_X": "secret"}):  # fmt: skip
        with pytest.raises(ClusterError) as caught:
            parse_environ(wrong)
        assert caught.value.code == "argument_invalid"
        assert "`environ`" in str(caught.value)
        assert "secret" not in str(caught.value)


def test_the_loader_passes_by_what_is_not_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    address = "tls://127.0.0.1:20001"
    assert towline.load_security({"address": address}) is None
    for other in ({}, {"address": None}, {"address": "tcp://127.0.0.1:20001"}, {"address": "tls://nowhere"}):
        assert towline.load_security(other) is None
    folder = tmp_path / "towline/clusters/cl-abc"
    folder.mkdir(parents=True)
    file = folder / "client-x.scheduler.json"
    for torn in ("", "{", "[]", '{"scheduler": 7}', '{"scheduler": ["tls://127.0.0.1:20002"]}'):
        file.write_text(torn)
        assert towline.load_security({"address": address}) is None
    # Without its keys beside it an address opens nothing.
    file.write_text('{"scheduler": ["tls://127.0.0.1:20001"]}')
    assert towline.load_security({"address": address}) is None


def test_a_persons_own_security_loader_stays():
    import dask

    from towline import _loader

    with dask.config.set({"distributed.client.security-loader": "mine.own"}):
        _loader.configure()
        assert dask.config.get("distributed.client.security-loader") == "mine.own"


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("n_worker", "did you mean `n_workers`"),
        ("idle_timout", "did you mean `idle_timeout`"),
        ("nthreads", "called `worker_threads` here"),
        ("cluster_timeout", "called `max_lifetime` here"),
        ("worker_vm_types", "comes with the cloud backends"),
        ("zzz", "there are: asynchronous, backend"),
    ],
)
def test_an_unknown_argument_names_the_nearest(given, sentence):
    with pytest.raises(TypeError, match=sentence):
        towline.Cluster(**{given: 1})
    if given in ("n_worker", "zzz"):
        with pytest.raises(TypeError, match="has no argument"):
            towline.Cluster.from_name("x", **{given: 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_workers": -1},
        {"n_workers": True},
        {"n_workers": "2"},
        {"n_workers": 10**9},
        {"name": "Upper"},
        {"name": "-x"},
        {"name": "a" * 64},
        {"name": ""},
        {"backend": ""},
        {"worker_processes": 0},
        {"worker_threads": 0},
        {"worker_memory": "many"},
        {"worker_memory": 1},
        {"worker_nanny": 1},
        {"worker_resources": {"GPU": 0}},
        {"worker_resources": ["GPU"]},
        {"idle_timeout": "soon"},
        {"idle_timeout": 0},
        {"idle_timeout": True},
        {"idle_timeout": "8 days"},
        {"no_client_timeout": 0},
        {"no_client_timeout": "soon"},
        {"max_lifetime": "8 days"},
        {"max_lifetime": float("nan")},
        {"tags": {"a": 1}},
        {"tags": "a"},
        {"tags": {"a b": "x"}},
        {"tags": {"-a": "x"}},
        {"tags": {"a" * 65: "x"}},
        {"tags": {"a": ""}},
        {"tags": {"a": "x\n"}},
        {"tags": {"a": "x" * 257}},
        {"tags": {f"k{n}": "x" for n in range(21)}},
        {"max_lifetime": "1e400s"},
        {"worker_memory": "1e400 GiB"},
        {"worker_memory": "1e40 GiB"},
    ],
)
def test_a_wrong_value_names_its_argument(wrong):
    (name,) = wrong
    with pytest.raises(ClusterError) as caught:
        _options.Options.parse(**{"n_workers": 1, **wrong})
    assert caught.value.code == "argument_invalid"
    assert f"`{name}" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["", ".", "..", "a\nb", "a/b", "../x", "A", None, 3])
def test_no_name_becomes_another_address(name):
    with pytest.raises(ClusterError) as caught:
        towline.Cluster.from_name(name)
    assert caught.value.code == "argument_invalid"
    assert "name or the id" in caught.value.message
    assert _options.name_or_id("steps-1") == "steps-1"
    assert _options.name_or_id("cl-aaaaaaaaaaaaaaaa") == "cl-aaaaaaaaaaaaaaaa"


def test_defaults_are_those_of_the_design():
    options = _options.Options.parse(n_workers=2, cores=8, memory=2 << 30)
    assert (options.threads, options.processes, options.memory_limit, options.nanny) == (4, 1, 1 << 30, True)
    assert (options.idle_after, options.no_client_after, options.max_lifetime) == (1200, 120, 86400)
    assert _options.Options.parse(n_workers=0, cores=8).threads == 8
    assert _options.Options.parse(n_workers=100, cores=2).threads == 1


def test_timeouts_that_end_a_cluster_can_be_set_and_switched_off():
    def times(**given):
        options = _options.Options.parse(n_workers=1, **given)
        return options.idle_after, options.no_client_after

    assert times() == (1200, 120)
    assert times(idle_timeout="5 minutes", no_client_timeout="1 hour") == (300, 3600)
    assert times(idle_timeout=None, no_client_timeout=None) == (None, None)
    # A cluster that outlives its object would otherwise die two minutes after the program that made it.
    assert times(shutdown_on_close=False) == (1200, None)
    assert times(shutdown_on_close=False, no_client_timeout=30) == (1200, 30)


def test_durations_in_every_form_are_whole_seconds():
    for value in (90, 90.0, 89.2, "90s", "1.5 minutes", timedelta(seconds=90)):
        assert _options.seconds("x", value) == 90


@pytest.mark.parametrize(
    ("asked", "workers", "waits"),
    [(True, 5, 5), (False, 5, 0), (3, 5, 3), (0.3, 5, 2), (0.3, 1, 1), (1.0, 4, 4), (0.3, 0, 0)],
)
def test_waits_for_the_share_that_was_asked_for(asked, workers, waits):
    assert _options.wanted_workers(asked, workers) == waits


def test_waiting_for_more_than_there_will_be_is_refused():
    for wrong in (6, -1, 1.5, "all"):
        with pytest.raises(ClusterError):
            _options.wanted_workers(wrong, 5)


# -- profiles ----------------------------------------------------------------------------------------------------------


def test_a_profile_hides_its_token(bench):
    profile = load()
    assert profile.token == TOKEN
    assert TOKEN not in repr(profile)


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        (None, "profile_missing", "does not exist"),
        ("default = ", "profile_invalid", "not valid TOML"),
        ('default = "x"\n', "profile_missing", "no profile 'x'"),
        ("[profile.a]\n", "profile_invalid", "`url` is missing"),
        ('[profile.a]\nurl = "http://x"\ntoken = "t"\n', "profile_invalid", "https://"),
        ('[profile.a]\nurl = "https://u:p@x"\ntoken = "t"\n', "profile_invalid", "without a user"),
        ('[profile.a]\nurl = "https://x"\n', "profile_invalid", "`token` is missing"),
        ('[profile.a]\nurl = "https://x"\ntoken = "a\\nb"\n', "profile_invalid", "not a token"),
        ('[profile.a]\nurl = "https://x"\ntoken = "t"\nca_file = "/nowhere"\n', "profile_invalid", "/nowhere"),
        ('[profile.a]\nurl = "https://x"\ntoken = "t"\nport = 1\n', "profile_invalid", "'port'"),
        ("profile = 3\n", "profile_invalid", "must be a table"),
    ],
)
def test_a_bad_profile_names_file_and_fault(tmp_path, text, code, sentence):
    file = tmp_path / "profiles.toml"
    if text is not None:
        file.write_text(text)
        file.chmod(0o600)
    with pytest.raises(ClusterError) as caught:
        load(environ={"TOWLINE_CONFIG": str(file)})
    assert caught.value.code == code
    assert sentence in caught.value.message
    assert str(file) in caught.value.message


def test_a_profile_that_others_may_read_is_refused(bench):
    bench.profiles.chmod(0o644)
    with pytest.raises(ClusterError) as caught:
        load()
    assert caught.value.code == "profile_open"
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("place", ["/dev/null", "folder"])
def test_what_is_no_file_is_not_to_be_changed(tmp_path, place):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ClusterError) as caught:
        load(environ={"TOWLINE_CONFIG": str(tmp_path / place)})
    assert caught.value.code == "profile_invalid"
    assert "not a file" in caught.value.message
    assert "chmod" not in str(caught.value)


# -- the control plane -------------------------------------------------------------------------------------------------


def call(work):
    async def run():
        plane = ControlPlane(load())
        try:
            return await work(plane)
        finally:
            plane.close()

    return asyncio.run(run())


def test_another_authority_is_not_trusted(bench, tmp_path):
    other = tmp_path / "other.pem"
    other.write_text(Authority("somebody else").pem)
    bench.write_profile(ca_file=str(other))
    begun = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        call(lambda plane: plane.whoami())
    assert caught.value.code == "control_plane_untrusted"
    assert str(other) in caught.value.message
    assert time.monotonic() - begun < 5
    assert bench.plane.calls == []


def test_the_systems_authorities_do_not_know_the_control_plane(bench):
    bench.write_profile(ca_file=None)
    with pytest.raises(ClusterError) as caught:
        call(lambda plane: plane.whoami())
    assert caught.value.code == "control_plane_untrusted"


def test_a_wrong_token_is_told(bench):
    bench.write_profile(token="tl_wrong")
    with pytest.raises(ClusterError) as caught:
        call(lambda plane: plane.whoami())
    assert caught.value.code == "unauthorised"
    assert "tl_wrong" not in str(caught.value)


def test_nobody_there_is_told_within_the_limit(bench):
    bench.plane.go_away()
    begun = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        call(lambda plane: plane.whoami(seconds=1))
    assert caught.value.code == "control_plane_unreachable"
    assert bench.plane.url in caught.value.message
    assert "who we are" in caught.value.message
    assert time.monotonic() - begun < 3


def test_something_else_at_the_address_is_told(bench):
    server = plain_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bench.write_profile(url=f"https://127.0.0.1:{server.server_address[1]}")
    with pytest.raises(ClusterError) as caught:
        call(lambda plane: plane.whoami(seconds=1))
    server.shutdown()
    server.server_close()
    assert caught.value.code in ("control_plane_unreachable", "control_plane_untrusted")


def test_a_name_cannot_change_the_path(bench):
    with pytest.raises(ClusterError) as caught:
        call(lambda plane: plane.cluster("../whoami?x=#"))
    assert caught.value.code in ("cluster_unknown", "not_found")
    assert bench.plane.calls == [("GET", "/api/v1/clusters/..%2Fwhoami%3Fx%3D%23")]


def test_refusals_before_a_host_starts(bench):
    def code() -> str:
        with pytest.raises(ClusterError) as caught:
            towline.Cluster(n_workers=1, progress="none")
        assert bench.key_folders() == []
        return caught.value.code

    bench.binary_knobs(refusal={"code": "distributed_missing", "message": "no distributed", "remedy": "Install it."})
    assert code() == "distributed_missing"
    bench.binary_knobs(crash=True)
    assert code() == "binary_failed"
    bench.binary_knobs(noise=True)
    assert code() == "binary_unusable"
    bench.binary_knobs(version="9.9.9")
    assert code() == "version_mismatch"
    bench.binary_knobs()
    bench.plane.knobs.version = "9.9.9"
    assert code() == "version_mismatch"
    bench.plane.knobs.version = towline.__version__
    taken = {"code": "cluster_name_taken", "detail": "the name x is taken", "remedy": "Choose another."}
    bench.plane.knobs.problems["/clusters"] = (409, taken)
    assert code() == "cluster_name_taken"
    assert bench.plane.clusters == {}
    with pytest.raises(ClusterError) as caught:
        towline.Cluster(n_workers=1, backend="moon", progress="none")
    assert caught.value.code == "backend_missing"
    assert "local" in caught.value.message


def test_retries_wait_longer_and_never_too_long():
    assert pause(0, 0.0) == pytest.approx(0.05)
    assert pause(0, 1.0) < pause(3, 1.0) < pause(10, 1.0) == pause(10_000, 1.0) <= 5.05


# -- the event stream --------------------------------------------------------------------------------------------------


def test_events_are_whole_however_they_are_cut():
    text = b': hello\n\nevent: cluster\r\ndata: {"a":\r\ndata: 1}\r\n\r\nid: 7\ndata: x\n\nevent: cluster\n\ndata:y\n\n'
    wanted = [("cluster", b'{"a":\n1}'), ("message", b"x"), ("message", b"y")]
    for size in range(1, len(text)):
        parser = _events.EventParser()
        found = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
        assert found == wanted, size


def test_an_endless_event_is_refused():
    parser = _events.EventParser(limit=1000)
    with pytest.raises(_events.Disconnected):
        for _ in range(100):
            list(parser.feed(b"data: " + b"x" * 100 + b"\n"))


def test_a_stream_that_is_silent_counts_as_lost(bench, monkeypatch):
    bench.plane.knobs.stuck_at = "created"
    monkeypatch.setattr(_events, "_SILENCE_SECONDS", 0.3)

    async def watch(plane):
        made = await plane.create(
            {
                **_options.Options(n_workers=1).body(
                    owner_key="k", environment={"digest": "", "interpreter": {}, "kind": "wheels"}
                )
            },
            "key",
        )
        with pytest.raises(ClusterError) as caught:
            async for _ in plane.follow(made.id, patience=lambda: 0.0):
                pass
        return caught.value

    error = call(watch)
    assert error.code == "control_plane_unreachable"
    assert "silent" in error.message


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, [], "x", {}, {"id": 1}, {"id": "a", "name": "b", "workspace": "c", "state": "d", "hosts": {}}]
)
def test_an_answer_that_is_no_cluster_is_refused(value):
    with pytest.raises(ClusterError) as caught:
        ClusterView.parse(value)
    assert caught.value.code == "answer_invalid"


def test_a_failure_names_the_host_when_the_cluster_has_no_reason():
    reason = {"code": "disk_full", "message": "the disk is full", "remedy": "Free some."}
    lost = view(state="failed", hosts=[{"id": "ho-x", "role": "worker", "state": "failed", "reason": reason}])
    assert lost.failure().code == "disk_full"
    assert "worker host ho-x" in lost.failure().message
    assert view(state="stopped").failure().code == "cluster_stopped"


def test_what_is_waited_for_is_said_in_short():
    host = {"role": "worker", "state": "starting", "current": {"waiting_for": "synced", "late": True}}
    many = view(hosts=[{**host, "id": f"ho-{number}"} for number in range(9)])
    assert _starting.waiting_for(many, "").endswith("worker host ho-2 (synced, late) and 6 more")
    assert _starting.waiting_for(None, "packing local code") == "packing local code"


# -- certificates ------------------------------------------------------------------------------------------------------


def certificate(*uris: str) -> dict:
    return {"subjectAltName": tuple(("URI", uri) for uri in uris)}


def test_only_a_name_of_our_form_is_a_member():
    cluster = random_id("cl-")
    good = member_uri(cluster, "ho-abc", "scheduler")
    member = _security.member_of(certificate(good))
    assert (member.cluster, member.host, member.role) == (cluster, "ho-abc", "scheduler")
    for bad in (
        certificate(),
        certificate(good, good),
        certificate(good + "/role/scheduler"),
        certificate(good.replace("scheduler", "owner")),
        certificate(good + "\n"),
        certificate("https" + good),
        {"subjectAltName": (("DNS", good),)},
        {},
        None,
    ):
        assert _security.member_of(bad) is None


def test_the_role_is_checked_by_where_we_dial(tmp_path):
    cluster = random_id("cl-")
    authority = Authority("c")
    crt, key = authority.identity(tmp_path, "client", member_uri(cluster, "client-a", "client"))
    ca = tmp_path / "ca"
    ca.write_text(authority.pem)
    security = _security.ClusterSecurity(
        cluster, ca_file=ca, certificate_file=crt, key_file=key, scheduler_addresses=["tls://127.0.0.1:8786"]
    )
    assert security.require_encryption
    assert isinstance(security.get_connection_args("client")["ssl_context"], ssl.SSLContext)
    assert "tls_client_key=Local" in repr(security)

    def check(role: str, peer: tuple[str, int] | None, of: str = cluster) -> str:
        try:
            security.check(certificate(member_uri(of, "ho-x", role)), peer)
        except ClusterError as error:
            return error.code
        return "fine"

    here, there = ("127.0.0.1", 8786), ("127.0.0.1", 9000)
    assert check("scheduler", here) == check("scheduler", None) == check("worker", there) == "fine"
    assert check("worker", here) == check("client", here) == check("worker", None) == "scheduler_not_genuine"
    assert check("client", there) == "member_not_genuine"
    assert check("scheduler", here, random_id("cl-")) == "scheduler_not_genuine"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tls://127.0.0.1", "127.0.0.1:8786", "tls://:1"])
def test_only_tls_addresses_are_dialled(address):
    with pytest.raises(ClusterError, match="tls://host:port"):
        _security.endpoints([address])


def test_written_certificates_are_ours_alone(tmp_path):
    file = _starting._write(tmp_path / "x.crt", "one")
    _starting._write(tmp_path / "x.crt", "two")
    assert file.read_text() == "two"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["x.crt"]


# -- progress ----------------------------------------------------------------------------------------------------------


def test_a_phase_is_told_from_start_to_end():
    events = []
    reporter = _progress.choose(events.append, quiet=True)
    with reporter.step("solve", "choosing") as step:
        step.progress("still choosing", 1, 2)
        step.done("chosen")
    with pytest.raises(ClusterError), reporter.step("upload", "sending"):
        raise ClusterError("disk_full", "no room", "")
    told = [(event["phase"], event["state"], event["message"]) for event in events]
    assert told == [
        ("solve", "started", "choosing"),
        ("solve", "progress", "still choosing"),
        ("solve", "done", "chosen"),
        ("upload", "started", "sending"),
        ("upload", "failed", "no room"),
    ]
    assert events[-1]["code"] == "disk_full"
    assert all(isinstance(event["seconds"], float) for event in events if event["state"] in ("done", "failed"))


def test_json_lines_are_json_and_plain_lines_are_few():
    for kind in ("json", "plain", "rich"):
        stream = io.StringIO()
        reporter = _progress.choose(kind, quiet=False, stream=stream)
        host = {"id": "ho-x", "role": "worker", "state": "starting", "phases": [{"phase": "created", "millis": 3}]}
        with reporter.step("hosts", "starting hosts"):
            reporter.cluster(view(hosts=[host]), None)
            reporter.cluster(view(hosts=[{**host, "current": {"waiting_for": "booted", "late": True}}]), None)
        reporter.rest()
        text = stream.getvalue()
        if kind == "json":
            lines = [json.loads(line) for line in text.splitlines()]
            assert [line["event"] for line in lines] == [
                "phase", "cluster", "host", "cluster", "host", "phase"]  # fmt: skip
            assert lines[2]["millis"] == 3
            assert lines[4]["late"]
        elif kind == "plain":
            assert len(text.splitlines()) == 2
            assert "late" in text
        else:
            assert "starting hosts" in text


def test_unused_gpus_are_told_of_once(caplog):
    host = {"id": "ho-x", "role": "worker", "state": "up", "phases": [], "gpus_unused_since_ms": None}
    quiet, unused = view(hosts=[host]), view(hosts=[{**host, "gpus_unused_since_ms": 1}])
    advice = Advice()
    with caplog.at_level(logging.WARNING, "towline"):
        advice.saw(quiet, quiet)
        assert not caplog.records
        advice.saw(unused, quiet)
        advice.saw(quiet, unused)
        advice.saw(unused, quiet)
    (record,) = caplog.records
    assert "the GPUs of the host ho-x" in record.getMessage()
    Advice().saw(view(hosts=[{**host, "state": "ended", "gpus_unused_since_ms": 1}]), quiet)
    assert len(caplog.records) == 1


def test_a_display_that_fails_does_not_stop_a_start(caplog):
    def broken(event):
        raise OSError("no terminal")

    reporter = _progress.choose(broken, quiet=False)
    with reporter.step("a", "b"):
        reporter.emit("note", message="x")
    assert caplog.text.count("is switched off") == 1


def test_an_unknown_display_is_refused():
    with pytest.raises(ClusterError, match="`progress` takes"):
        _progress.choose("loud", quiet=False)


# -- logs --------------------------------------------------------------------------------------------------------------


def test_log_streams_are_found_in_either_folder(tmp_path):
    name = random_id("cl-")
    for folder in (tmp_path, tmp_path / name):
        folder.mkdir(exist_ok=True)
        write_records(folder / "scheduler.jsonl", [{"id": 0, "line": "from " + folder.name}])
        write_records(folder / "worker-ho-x.jsonl", [{"id": 0, "line": "w"}])
    cluster = view(id=name, logs={"kind": "file", "directory": str(tmp_path)})
    logs = read(cluster, Wanted(["said"], {"ho-x": "tls://a:1"}, True, True, True))
    assert dict(logs) == {"Cluster": "said", "Scheduler": f"from {name}", "tls://a:1": "w"}
    assert read(cluster, Wanted([], {}, False, False, ["ho-x"])) == {"ho-x": "w"}
    assert streams(view(logs={"kind": "file", "directory": str(tmp_path / "none")})) == {}
    assert read(view(), Wanted([], {}, True, True, True)) is None


def write_records(file: Path, records: list[dict]) -> None:
    lines = [json.dumps({"time": 1, "stream": file.stem, **record}) + "\n" for record in records]
    file.write_text("".join(lines), encoding="utf-8")


def scheduler_log(folder: Path) -> str:
    wanted = Wanted([], {}, False, True, False)
    return read(view(logs={"kind": "file", "directory": str(folder)}), wanted)["Scheduler"]


def test_full_files_are_read_in_their_order_and_what_came_twice_once(tmp_path):
    records = [{"id": number * 10, "line": f"line {number}"} for number in range(10)]
    write_records(tmp_path / "scheduler.000001.jsonl", records[:4])
    # A crash repeats a batch, also over the end of a file.
    write_records(tmp_path / "scheduler.000002.jsonl", records[2:6] + records[5:7])
    write_records(tmp_path / "scheduler.jsonl", records[6:])
    for other in ("scheduler.x.jsonl", "scheduler.jsonl.tmp", "notes.txt"):
        (tmp_path / other).write_text("not ours")
    assert scheduler_log(tmp_path) == "\n".join(f"line {number}" for number in range(10))


def test_long_lines_are_whole_gaps_are_told_and_torn_records_are_not_read(tmp_path):
    gap = {"from": 7, "to": 9, "bytes": 2, "lines": 1, "reason": "spool_full"}
    write_records(tmp_path / "scheduler.jsonl", [
        {"id": 0, "line": "a"}, {"id": 2, "line": "lo", "part": 1, "more": True}, {"id": 4, "line": "ng", "part": 2},
        {"id": 7, "gap": gap}, {"id": 9, "gap": {**gap, "lines": None}}, {"id": 11, "line": "a line's end", "part": 3},
        {"id": 30, "line": "ä"},
    ])  # fmt: skip
    with (tmp_path / "scheduler.jsonl").open("a", encoding="utf-8") as log:
        log.write('no record\n{"id": 40, "line": "whole but for its end"}')
    assert scheduler_log(tmp_path).splitlines() == [
        "a", "long", "[1 lines (2 bytes) are missing here: spool_full]",
        "[at least 2 bytes are missing here: spool_full]", "a line's end", "ä",
    ]  # fmt: skip


def test_of_a_huge_log_the_end_is_shown_also_over_files(tmp_path):
    records = [{"id": number, "line": f"line {number}"} for number in range(200_000)]
    write_records(tmp_path / "scheduler.000001.jsonl", records[:180_000])
    write_records(tmp_path / "scheduler.jsonl", records[180_000:])
    text = scheduler_log(tmp_path)
    assert 1024 * 1024 - 100 < len(text) <= 1024 * 1024 + 100
    first, second, *_ = text.splitlines()
    assert "`towline logs" in first
    assert second.startswith("line 1")
    assert text.endswith("line 199999")
    numbers = [int(line.split()[1]) for line in text.splitlines()[1:]]
    assert numbers == list(range(numbers[0], 200_000))


# -- the binary --------------------------------------------------------------------------------------------------------


def test_the_binary_is_found_in_three_places(tmp_path):
    def program(folder: str) -> Path:
        file = tmp_path / folder / "towline"
        file.parent.mkdir()
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        return file

    named, beside, path = program("named"), program("beside"), program("path")
    python = str(beside.parent / "python")
    environ = {"TOWLINE_BINARY": str(named), "PATH": str(path.parent)}
    assert locate(environ, python) == named
    del environ["TOWLINE_BINARY"]
    assert locate(environ, python) == beside
    beside.unlink()
    assert locate(environ, python) == path
    path.chmod(0o644)
    with pytest.raises(ClusterError) as caught:
        locate(environ, python)
    assert caught.value.code == "binary_missing"
    with pytest.raises(ClusterError, match="not a program"):
        locate({"TOWLINE_BINARY": str(path)})


def test_a_binary_that_hangs_is_ended_in_time(bench):
    bench.binary_knobs(hang=True)
    binary = Binary(locate())
    scan = json.dumps({"v": 0, "distributions": [1], "interpreter": {"version": "x"}}).encode()
    begun = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        work = binary.lines(("env", "prepare", "--json-lines"), print, stdin=scan, what="the environment", seconds=1)
        asyncio.run(work)
    assert caught.value.code == "binary_timeout"
    assert "the environment" in caught.value.message
    assert time.monotonic() - begun < 10


def test_the_profile_reaches_the_binary_by_name_only(bench, tmp_path):
    file = tmp_path / "echo"
    file.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps({'profile': os.environ.get('TOWLINE_PROFILE'), 'words': sys.argv[1:]}))\n"
    )
    file.chmod(0o755)
    answer = asyncio.run(Binary(file, "work").json("a", "b", what="x", seconds=20))
    assert answer == {"profile": "work", "words": ["a", "b"]}
    file.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('x' * 100_000)\n")
    with pytest.raises(ClusterError) as caught:
        asyncio.run(Binary(file).json("a", what="x", seconds=20))
    assert len(str(caught.value)) < 6000


def test_a_scan_reaches_the_binary_and_sees_edits(bench, tmp_path, monkeypatch):
    """The scan is taken anew for every cluster."""
    from towline._preparation import _scan

    first = {record["name"] for record in _scan()["distributions"]}
    folder = tmp_path / "site" / "fresh_thing-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fresh-thing\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    assert {record["name"] for record in _scan()["distributions"]} - first == {"fresh-thing"}


# -- scaling -----------------------------------------------------------------------------------------------------------


SHAPE = {"processes": 2, "threads": 3, "memory_limit": 1 << 30}


def test_cores_and_memory_are_counted_in_hosts():
    from towline._scaling import hosts_for

    assert [hosts_for("cores", amount, SHAPE, "cores") for amount in (0, 1, 6, 6.5, 12)] == [0, 1, 1, 2, 2]
    assert [hosts_for("memory", amount, SHAPE, "memory") for amount in (0, "2 GiB", "2.1 GiB", 1 << 32)] == [0, 1, 2, 2]
    for kind, wrong in (
        ("cores", -1),
        ("cores", "many"),
        ("cores", True),
        ("memory", "much"),
        ("memory", float("inf")),
    ):
        with pytest.raises(ClusterError) as caught:
            hosts_for(kind, wrong, SHAPE, kind)
        assert caught.value.code == "argument_invalid", wrong
    with pytest.raises(ClusterError, match="memory limit"):
        hosts_for("memory", 1, {**SHAPE, "memory_limit": None}, "memory")


def test_adaptive_terms_are_as_in_dask_and_checked():
    from towline._scaling import terms

    assert terms(SHAPE, {}) == {
        "minimum": 0, "maximum": None, "interval_ms": 1000, "wait_count": 3, "target_duration_ms": 5000,
    }  # fmt: skip
    given = terms(SHAPE, {"minimum": 1, "maximum": 9, "maximum_cores": 24, "minimum_memory": "3 GiB",
                          "interval": "10 ms", "target_duration": timedelta(seconds=2)})  # fmt: skip
    assert (given["minimum"], given["maximum"], given["interval_ms"], given["target_duration_ms"]) == (2, 4, 10, 2000)
    for wrong in ({"minimum": -1}, {"minimum": 3, "maximum": 2}, {"maximum": 1.5}, {"interval": "soon"},
                  {"wait_count": 0}, {"minimum": True}):  # fmt: skip
        with pytest.raises(ClusterError) as caught:
            terms(SHAPE, wrong)
        assert caught.value.code == "argument_invalid", wrong


#: Arguments of other cluster managers that a newcomer is likely to bring along, Coiled's among them.
BROUGHT_ALONG = (
    "account adaptive allow_ingress_from allow_ssh arm backend_options cluster_timeout container credentials "
    "extra_worker_on_scheduler host_setup_script jupyter memory_limit mount_bucket nthreads package_sync "
    "package_sync_ignore package_sync_strict private_to_creator region scheduler_cpu scheduler_disk_size "
    "scheduler_memory scheduler_options scheduler_vm_types security send_private_envs software spot_policy "
    "threads_per_worker use_best_zone worker_class worker_cpu worker_disk_size worker_gpu worker_gpu_type "
    "worker_options worker_vm_types workspace"
).split()


@pytest.mark.parametrize("name", BROUGHT_ALONG)
def test_says_of_an_argument_of_others_what_it_is_here_or_why_it_is_not(name):
    with pytest.raises(TypeError, match=f"has no argument `{name}`: ") as caught:
        towline.Cluster(**{name: 1})
    hint = str(caught.value).split(": ", 1)[1]
    assert not hint.startswith(("did you mean", "there are"))
    known = set(inspect.signature(towline.Cluster.__init__).parameters)
    renamed = re.match(r"it is called `(\w+)` here", hint)
    assert renamed is None or renamed[1] in known
