"""`towline.Cluster` against a strict fake control plane and a real Dask over TLS."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time

import pytest
import towline
from client_fakes import Workbench, random_id
from distributed import Client, Status
from towline import ClusterError


@pytest.fixture
def bench(tmp_path, monkeypatch):
    bench = Workbench(tmp_path, monkeypatch)
    yield bench
    bench.close()


def quick(**arguments):
    return towline.Cluster(**{"n_workers": 1, "progress": "none", "timeout": 60, **arguments})


def wait_until(fact, seconds=20):
    until = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < until, "not so in time"
        time.sleep(0.02)


def test_computes_and_leaves_nothing(bench):
    with quick(n_workers=2, wait_for_workers=True, name="two") as cluster:
        with cluster.get_client() as client:
            assert client.submit(sum, range(10)).result(timeout=30) == 45
            assert cluster.get_client() is client
        assert cluster.name == "two"
        assert cluster.scheduler_address.startswith("tls://")
        assert cluster.observed == cluster.plan == cluster.requested
        assert len(cluster.plan) == 2
        assert "two" in repr(cluster)
        assert "workers=2" in repr(cluster)
        assert "two" in cluster._repr_html_()
        assert cluster.dashboard_link == ""
        assert bench.key_folders() == [cluster.cluster_id]
    assert cluster.status == Status.closed
    assert bench.plane.only["state"] == "stopped"
    assert bench.plane.processes() == []
    assert bench.key_folders() == []
    cluster.close()


def test_asks_for_exactly_what_was_said(bench):
    with quick(
        n_workers=1,
        worker_processes=1,
        worker_threads=3,
        worker_memory="2 GiB",
        worker_nanny=False,
        worker_resources={"GPU": 2},
        max_lifetime="2 hours",
        tags={"team": "sky"},
    ):
        body = bench.plane.bodies[0]
    assert body["worker"] == {
        "processes": 1,
        "threads": 3,
        "memory_limit": 2 * 1024**3,
        "nanny": False,
        "resources": [{"name": "GPU", "amount": 2}],
    }
    assert (body["idle_after"], body["no_client_after"], body["max_lifetime"]) == (1200, 120, 7200)
    assert body["tags"] == {"team": "sky"}
    assert "name" not in body


def test_scales_up_and_down(bench):
    with quick(wait_for_workers=True) as cluster:
        assert cluster.scale(2) is None
        cluster.wait_for_workers(2, timeout=30)
        assert bench.plane.only["n_workers"] == 2
        cluster.scale(1)
        wait_until(lambda: len(cluster.observed) == 1)
        for wrong in (-1, 1.5, True, "3"):
            with pytest.raises(ClusterError, match="whole number"):
                cluster.scale(wrong)


def test_a_worker_that_left_twice_does_not_freeze_the_picture(bench):
    with quick(wait_for_workers=True) as cluster:
        cluster._update_worker_status("remove", "tls://127.0.0.1:1")
        assert len(cluster.observed) == 1


def test_works_in_a_running_loop(bench):
    async def use() -> int:
        async with quick(asynchronous=True, wait_for_workers=True) as cluster:
            async with cluster.get_client() as client:
                assert client.asynchronous
                result = await client.submit(sum, range(5))
            await cluster.scale(2)
            await cluster.wait_for_workers(2, timeout=30)
            assert "It is running." in await cluster.why()
        assert cluster.status == Status.closed
        await cluster.close()
        return result

    assert asyncio.run(use()) == 10
    assert bench.plane.only["state"] == "stopped"


def test_scaling_begins_without_being_awaited(bench):
    async def use() -> None:
        async with quick(asynchronous=True, wait_for_workers=True) as cluster:
            cluster.scale(2)
            await cluster.wait_for_workers(2, timeout=30)

    asyncio.run(use())


def test_plain_with_is_refused_in_a_running_loop(bench):
    async def use() -> None:
        cluster = quick(asynchronous=True)
        with pytest.raises(TypeError), cluster:
            pass
        await cluster.close()

    asyncio.run(use())
    assert bench.plane.calls == []


def test_joins_by_name_and_leaves_it_running(bench):
    with quick(name="shared", wait_for_workers=True) as cluster:
        joined = towline.Cluster.from_name("shared", progress="none", timeout=60)
        with Client(joined) as client:
            assert client.submit(sum, range(4)).result(timeout=30) == 6
        assert joined.name == "shared"
        cluster.scale(2)
        wait_until(lambda: len(joined.observed) == len(cluster.observed) == 2)
        joined.close()
        # Dask tells only one subscriber of workers: it must still be the creator.
        cluster.scale(1)
        wait_until(lambda: len(cluster.observed) == 1)
        assert joined.status == Status.closed
        assert bench.plane.only["state"] == "running"
        # Only the files of the client that left are gone.
        keys = list((bench.state / "towline" / "clusters" / cluster.cluster_id).glob("client-*.key"))
        assert len(keys) == 1
    assert bench.plane.only["state"] == "stopped"


def test_says_which_cluster_cannot_be_joined(bench):
    with quick(name="shared"):
        pass
    with pytest.raises(ClusterError) as caught:
        towline.Cluster.from_name("never-was", progress="none")
    assert caught.value.code == "cluster_unknown"
    with pytest.raises(ClusterError) as caught:
        towline.Cluster.from_name("shared", progress="none")
    assert caught.value.code == "cluster_ended"


@pytest.mark.parametrize(("role", "other"), [("worker", False), ("client", False), ("scheduler", True)])
def test_refuses_a_false_scheduler(bench, role, other):
    bench.plane.knobs.scheduler_role = role
    bench.plane.knobs.scheduler_cluster = random_id("cl-") if other else None
    begun = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        quick()
    assert caught.value.code == "scheduler_not_genuine"
    assert time.monotonic() - begun < 20
    assert bench.plane.only["state"] == "stopped"


def test_tells_why_a_cluster_failed(bench):
    reason = {"code": "interpreter_missing", "message": "no Python 3.11.2 on the host", "remedy": "Install it."}
    bench.plane.knobs.fails_with = reason
    with pytest.raises(ClusterError) as caught:
        quick()
    assert (caught.value.code, caught.value.message, caught.value.remedy) == tuple(reason.values())
    assert str(caught.value) == "no Python 3.11.2 on the host. Install it. [interpreter_missing]"
    assert bench.key_folders() == []


def test_a_start_that_hangs_says_what_it_waits_for(bench):
    bench.plane.knobs.stuck_at = "synced"
    with pytest.raises(ClusterError) as caught:
        quick(timeout=6)
    assert caught.value.code == "start_timeout"
    assert "scheduler host ho-" in caught.value.message
    assert "(synced)" in caught.value.message
    assert bench.plane.only["state"] == "stopped"


def test_survives_lost_answers_busy_servers_and_cut_streams(bench):
    knobs = bench.plane.knobs
    knobs.busy, knobs.lost_answers, knobs.cut_events_after = 2, 1, 1
    with quick(wait_for_workers=True) as cluster, cluster.get_client() as client:
        assert client.submit(sum, range(3)).result(timeout=30) == 3
        knobs.cut_events_after = None
    assert len(bench.plane.clusters) == 1
    assert bench.plane.streams > 2
    assert bench.plane.only["state"] == "stopped"


def test_a_cluster_that_ends_by_itself_is_noticed(bench):
    events = []
    with quick(wait_for_workers=True, progress=events.append) as cluster:
        bench.plane.do(bench.plane.change(bench.plane.only, state="failed", reason={
            "code": "scheduler_lost", "message": "the scheduler is gone", "remedy": "Make a new one."}))  # fmt: skip
        wait_until(lambda: cluster.status == Status.failed)
        with pytest.raises(ClusterError, match="the scheduler is gone"):
            cluster.wait_for_workers(5, timeout=20)
    assert any(event["event"] == "note" and "the scheduler is gone" in event["message"] for event in events)


def test_tells_why_it_is_alive_and_why_it_ended(bench):
    with quick() as cluster:
        assert cluster.why() == "It is running.\nIt ends in 5 min."
        bench.plane.do(bench.plane.change(bench.plane.only, state="failed", reason={
            "code": "scheduler_lost", "message": "the scheduler is gone", "remedy": "Make a new one."}))  # fmt: skip
        wait_until(lambda: cluster.status == Status.failed)
        assert cluster.why().startswith("It is failed.")
    with pytest.raises(ClusterError, match=f"towline cluster show {cluster.cluster_id}"):
        cluster.why()


def test_logs_keep_dasks_keys_and_outlive_the_cluster(bench):
    with quick(wait_for_workers=True) as cluster:
        (worker,) = cluster.scheduler_info["workers"]
        logs = cluster.get_logs()
        assert set(logs) == {"Cluster", "Scheduler", worker}
        assert "Scheduler at" in logs["Scheduler"]
        assert set(cluster.get_logs(cluster=False, workers=False)) == {"Scheduler"}
        assert set(cluster.get_logs(cluster=False, scheduler=False, workers=[worker])) == {worker}


def test_closing_does_not_wait_for_ever_nor_raise(bench, caplog):
    bench.plane.knobs.never_ends = True
    cluster = quick()
    begun = time.monotonic()
    cluster.close(timeout=1)
    assert time.monotonic() - begun < 6
    assert bench.plane.only["state"] == "stopping"
    # Its keys may still be needed to look at it.
    assert bench.key_folders() == [bench.plane.only["id"]]


def test_closing_without_a_control_plane_warns(bench, caplog):
    cluster = quick()
    bench.plane.go_away()
    sentence = "could not be told to end.*until its max_lifetime"
    with caplog.at_level(logging.WARNING, "towline"), pytest.warns(ResourceWarning, match=sentence):
        cluster.close(timeout=2)
    assert cluster.status == Status.closed
    assert "control_plane_unreachable" in caplog.text


def test_a_script_that_just_ends_ends_its_cluster(bench):
    script = bench.script("""
        import towline
        if __name__ == "__main__":
            cluster = towline.Cluster(n_workers=1, progress="plain", wait_for_workers=True)
            client = cluster.get_client()
            print(client.submit(sum, [1, 2]).result())
    """)
    done = subprocess.run(
        [sys.executable, script], env=bench.environ(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"
    assert "towline: hosts: the scheduler is there" in done.stderr
    wait_until(lambda: bench.plane.only["state"] == "stopped")
    assert bench.key_folders() == []


@pytest.mark.parametrize("moment", ["create", "hosts"])
def test_control_c_while_starting_ends_what_was_begun(bench, moment):
    if moment == "create":
        bench.plane.knobs.create_takes = 2.0
    else:
        bench.plane.knobs.stuck_at = "booted"
    script = bench.script("""
        import towline
        if __name__ == "__main__":
            towline.Cluster(n_workers=1, progress="json")
    """)
    child = subprocess.Popen(
        [sys.executable, script], env=bench.environ(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in child.stderr:
        if f'"phase":"{moment}","state":"started"' in line:
            break
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    rest = child.communicate(timeout=60)[1]
    assert "KeyboardInterrupt" in rest
    failed = [line for line in rest.splitlines() if '"state":"failed"' in line]
    assert failed
    assert all('"message":"stopped before it was done"' in line for line in failed), failed
    assert child.returncode != 0
    wait_until(lambda: bench.plane.only["state"] == "stopped")
    assert bench.key_folders() == []


def test_a_script_without_a_main_guard_is_told(bench):
    script = bench.script("""
        import multiprocessing
        import towline
        pool = None
        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
        cluster = towline.Cluster(n_workers=1, progress="none")
        if __name__ == "__main__":
            child = multiprocessing.Process(target=print)
            child.start()
            child.join()
            cluster.close()
            raise SystemExit(child.exitcode)
    """)
    done = subprocess.run(
        [sys.executable, script], env=bench.environ(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "main_guard_missing" in done.stderr
    assert len(bench.plane.clusters) == 1


def test_a_worker_that_imports_the_program_is_told(bench):
    def ask() -> str:
        try:
            towline.Cluster(n_workers=1, progress="none")
        except ClusterError as error:
            return error.code
        return "made one"

    with quick(wait_for_workers=True) as cluster, cluster.get_client() as client:
        assert client.submit(ask).result(timeout=30) == "main_guard_missing"
    assert len(bench.plane.clusters) == 1


def test_adapts_by_the_clusters_own_scheduler(bench):
    with quick(wait_for_workers=True) as cluster:
        assert cluster._scaling_status().count("Manual") == 1
        handle = cluster.adapt(minimum=1, maximum=3, interval="20 ms")
        assert bench.plane.only["adaptive"] == {
            "minimum": 1, "maximum": 3, "interval_ms": 20, "wait_count": 3, "target_duration_ms": 5000,
        }  # fmt: skip
        wait_until(lambda: "Adaptive" in cluster._scaling_status())
        again = cluster.adapt(minimum=2)
        assert (again.minimum, again.maximum, again.interval, handle.state) == (2, 3, 0.02, "stopped")
        wait_until(lambda: [entry["n"] for _, entry in again.log] == [2])
        again.stop()
        assert again.state == "stopped"
        assert bench.plane.only["adaptive"] is None
        assert bench.plane.only["n_workers"] == 2
        assert again.stop() is None
        third = cluster.adapt(maximum=4)
        cluster.scale(1)
        assert third.state == "stopped"
        with pytest.raises(ClusterError, match="in its scheduler"):
            cluster.adapt(Adaptive=type("Mine", (), {}))
        with pytest.raises(TypeError, match="`minmum`"):
            cluster.adapt(minmum=1)
        with pytest.raises(ClusterError, match="one host end together"):
            cluster.adapt(worker_key=str)


def test_holds_and_lets_go_and_alike_in_asynchronous_use(bench):
    with quick() as cluster:
        cluster.hold("2h", reason="a demo")
        assert bench.plane.only["hold"] == {"seconds": 7200, "reason": "a demo"}
        cluster.hold(1.2)
        assert bench.plane.only["hold"] == {"seconds": 2, "reason": None}
        cluster.release()
        assert bench.plane.only["hold"] is None
        for wrong in ("ever", 0, True):
            with pytest.raises(ClusterError, match="`time`"):
                cluster.hold(wrong)
    with pytest.raises(ClusterError, match="is closed"):
        cluster.hold("2h")

    async def use():
        async with quick(asynchronous=True) as cluster:
            await cluster.hold("1m")
            assert [view["hold"] for view in bench.plane.clusters.values()][-1] == {"seconds": 60, "reason": None}
            await cluster.release()
            assert [view["hold"] for view in bench.plane.clusters.values()][-1] is None

    asyncio.run(use())


def test_closing_a_joined_object_leaves_scaling_as_it_is(bench):
    with quick(name="shared", wait_for_workers=True):
        joined = towline.Cluster.from_name("shared", progress="none", timeout=60)
        joined.adapt(minimum=1, maximum=3)
        joined.close()
        assert bench.plane.only["adaptive"]["maximum"] == 3
