"""Sharing a cluster: who asks, who admits, and what each of the two is told."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import towline
from client_fakes import Workbench
from distributed import Client
from towline import ClusterError, _starting
from towline._discovery import discover


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Workbench(tmp_path, monkeypatch)
    yield bench
    bench.close()


def wait_until(fact, seconds=20):
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "not so in time"
        time.sleep(0.02)


@pytest.fixture
def shared(bench):
    """A cluster whose owner key is on another machine, and the events of its owner's object."""
    told = []
    with towline.Cluster(n_workers=1, name="shared", progress=told.append, timeout=60) as cluster:
        bench.folder_of_keys = bench.state / "towline" / "clusters" / cluster.cluster_id
        bench.owner_key = bench.folder_of_keys / "owner.key"
        bench.owner_key.unlink()
        bench.owner, bench.told = cluster, told
        yield cluster


def joined_keys(bench):
    return sorted(file.name for file in bench.folder_of_keys.glob("client-joined-*.key"))


class Joiner(threading.Thread):
    """Another person's program."""

    def __init__(self, **arguments):
        super().__init__()
        self.events, self.cluster, self.error = [], None, None
        self.arguments = {"timeout": 60, **arguments}
        self.start()

    def run(self):
        try:
            self.cluster = towline.Cluster.from_name("shared", progress=self.events.append, **self.arguments)
        except ClusterError as error:
            self.error = error

    def asked(self):
        return [event for event in self.events if event["event"] == "admission" and event["state"] == "asked"]


def test_waits_for_the_owner_computes_and_needs_no_second_admission(bench, shared):
    bob = Joiner()
    wait_until(bob.asked)
    (asked,) = bob.asked()
    assert asked["code"].startswith("CODE-OF-")
    assert asked["command"] == f"towline cluster admit shared {asked['code']}"
    assert asked["owner"] == "tester"
    wait_until(lambda: any("waiting for tester" in event.get("message", "") for event in bob.events))
    assert bob.cluster is None
    bench.plane.do(bench.plane.answer(bench.plane.only, None))
    bob.join(30)
    assert bob.error is None
    with Client(bob.cluster) as client:
        assert client.submit(sum, range(4)).result(timeout=30) == 6
    bob.cluster.close()
    assert bench.plane.only["state"] == "running"
    # The key stays, with all that a client of the bare address needs.
    (key,) = joined_keys(bench)
    names = {file.name for file in bench.folder_of_keys.glob("client-joined-*")}
    assert names == {key, *(key.removesuffix("key") + end for end in ("crt", "ca.crt", "scheduler.json"))}
    with Client(
        shared.scheduler_address, security=towline.load_security({"address": shared.scheduler_address})
    ) as bare:
        assert bare.submit(sum, range(5)).result(timeout=30) == 10
    # Two more at the same time: nobody is asked.
    more = [Joiner(), Joiner()]
    for one in more:
        one.join(60)
        assert one.error is None
        assert one.asked() == []
        one.cluster.close()
    assert joined_keys(bench) == [key]
    assert len(bench.plane.only["clients"]) == 2


def test_a_limit_that_passes_names_the_owner_and_the_command_and_the_next_try_has_the_same_code(bench, shared):
    codes = set()
    for _ in range(2):
        bob = Joiner(timeout=8)
        bob.join(60)
        assert bob.error.code == "start_timeout"
        (asked,) = bob.asked()
        assert asked["command"] in bob.error.message
        assert "tester" in bob.error.message
        codes.add(asked["code"])
    assert len(codes) == 1
    assert [asked["state"] for asked in bench.plane.only["admission_requests"]] == ["pending"]


def test_a_refused_key_raises_and_is_forgotten(bench, shared):
    bob = Joiner()
    wait_until(bob.asked)
    bench.plane.do(bench.plane.answer(bench.plane.only, "refused"))
    bob.join(30)
    assert bob.error.code == "admission_refused"
    assert joined_keys(bench) == []


def test_a_request_that_ran_out_is_made_again(bench, shared):
    bob = Joiner()
    wait_until(bob.asked)
    bench.plane.do(bench.plane.change(bench.plane.only, admission_requests=[]))
    wait_until(lambda: bench.plane.only["admission_requests"])
    bench.plane.do(bench.plane.answer(bench.plane.only, None))
    bob.join(30)
    assert bob.error is None
    bob.cluster.close()


def test_a_cluster_that_ends_meanwhile_says_so_and_the_keys_go_with_it(bench, shared):
    bob = Joiner()
    wait_until(bob.asked)
    shared.close()
    bob.join(30)
    assert bob.error.code == "cluster_stopped" or bob.error.code == "cluster_stopping"
    wait_until(lambda: bench.key_folders() == [])


def test_without_the_role_nobody_is_asked(bench, shared):
    problem = {"code": "role_too_low", "detail": "it needs the role member", "remedy": "Ask an admin."}
    bench.plane.knobs.problems["admission-requests"] = (403, problem)
    bob = Joiner()
    bob.join(30)
    assert bob.error.code == "role_too_low"


def notes(bench, state):
    return [event for event in bench.told if event["event"] == "admission" and event["state"] == state]


def test_the_owner_hears_who_asks_without_a_code_and_admits_by_one(bench, shared):
    bob = Joiner()
    wait_until(lambda: notes(bench, "requested"))
    (note,) = notes(bench, "requested")
    assert "bob asks to join shared" in note["message"]
    assert "towline cluster admit shared CODE" in note["message"]
    wait_until(bob.asked)
    assert bob.asked()[0]["code"] not in str(bench.told)
    with pytest.raises(ClusterError) as caught:
        shared.admit("BAD-CODE")
    assert caught.value.code == "admission_code_unknown"
    # The fake binary takes a second: what it lets in meanwhile is this object's own doing.
    letting = threading.Timer(0.3, lambda: bench.plane.do(let_in(bench, "client-joined-bob", "bob")))
    letting.start()
    assert shared.admit("GOOD-CODE") == "client-joined-bob"
    letting.join()
    time.sleep(0.3)
    assert notes(bench, "admitted") == []
    bench.plane.do(bench.plane.answer(bench.plane.only, "refused"))
    bob.join(30)


async def let_in(bench, client, person):
    view = bench.plane.only
    spki = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="  # noqa: E501
    bench.plane.let_in(view, client, spki, person)
    await bench.plane.change(view)


def test_the_owner_hears_of_an_admission_that_is_not_their_objects(bench, shared):
    bench.plane.do(let_in(bench, "client-joined-eve", "eve\x1b[2J"))
    wait_until(lambda: notes(bench, "admitted"))
    (note,) = notes(bench, "admitted")
    assert "client-joined-eve of eve?[2J was admitted to shared" in note["message"]
    assert "towline cluster stop shared" in note["message"]


def test_another_object_of_the_owner_is_no_stranger(bench, shared):
    bench.owner_key.write_text("owner")
    second = towline.Cluster.from_name("shared", progress="none", timeout=60)
    time.sleep(0.3)
    assert notes(bench, "admitted") == []
    assert second.shutdown_on_close is False
    second.close()
    assert bench.owner_key.exists()


def test_admits_in_a_running_loop(bench, shared):
    async def work():
        bench.owner_key.write_text("owner")
        cluster = await towline.Cluster.from_name("shared", progress="none", timeout=60, asynchronous=True)
        try:
            return await cluster.admit("GOOD-CODE")
        finally:
            await cluster.close()

    assert asyncio.run(work()) == "client-joined-bob"


def test_listing_clusters_asks_nobody(bench, shared):
    async def found():
        return [name async for name, _ in discover()]

    assert asyncio.run(found()) == []
    bench.owner_key.write_text("owner")
    assert asyncio.run(found()) == ["shared"]
    assert bench.plane.only["admission_requests"] == []


@pytest.mark.parametrize("name", ["..", ".", "", "../cl-aaaaaaaaaaaaaaaa", "clusters", "cl-"])
def test_only_a_clusters_own_folder_is_removed(tmp_path, name):
    clusters = tmp_path / "clusters"
    (clusters / "cl-aaaaaaaaaaaaaaaa").mkdir(parents=True)
    _starting._remove(clusters / name, name)
    assert (clusters / "cl-aaaaaaaaaaaaaaaa").is_dir()
    _starting._remove(clusters / "cl-aaaaaaaaaaaaaaaa", "cl-aaaaaaaaaaaaaaaa")
    assert list(clusters.iterdir()) == []
