"""The scheduler's word on how many worker hosts there are, with Dask's real scheduler, workers and clients."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from distributed import Client, Scheduler, Worker
from scheduler_parts import load


plugin = load("towline_scaling")
host_of = load("towline_scheduler").host_of


def plan(minimum: int, maximum: int, **more: int) -> dict[str, int]:
    eager = {"processes": 1, "interval_ms": 20, "wait_count": 3, "target_duration_ms": 1000}
    return {"minimum": minimum, "maximum": maximum, **eager, **more}


@contextlib.asynccontextmanager
async def cluster(hosts: int, processes: int = 1) -> AsyncIterator[tuple[Scheduler, Any, Client]]:
    plugin.FIXED_INTERVAL = 0.05
    async with contextlib.AsyncExitStack() as stack:
        scheduler = await stack.enter_async_context(
            Scheduler(port=0, protocol="tcp", dashboard=False, host="127.0.0.1")
        )
        for host in range(hosts):
            for process in range(processes):
                name = f"ho-{host}" + (f"-{process}" if processes > 1 else "")
                await stack.enter_async_context(Worker(scheduler.address, nthreads=1, dashboard=False, name=name))
        scaling = plugin.Scaling(scheduler, host_of)
        scheduler.handlers["towline_retire"] = scaling.retire_chosen
        scheduler.handlers["towline_prefer"] = scaling.prefer
        running = asyncio.ensure_future(scaling.run())
        client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
        try:
            yield scheduler, scaling, client
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_says_nothing_without_a_plan() -> None:
    async def test() -> None:
        async with cluster(2) as (_, scaling, _client):
            await asyncio.sleep(0.2)
            assert scaling.statement() is None

    run(test)


def test_a_chosen_number_is_reached_without_losing_data() -> None:
    async def test() -> None:
        async with cluster(4) as (scheduler, scaling, client):
            futures = client.map(lambda number: bytes([number]) * 1000, range(40), pure=False)
            await client.gather(futures)
            scaling.follow(plan(2, 2))
            await until(lambda: len(scaling.retired) == 2)
            said = scaling.statement()
            assert (said["wanted"], len(said["retired"])) == (2, 2)
            gone = set(said["retired"])
            # What the control plane does then: it ends the hosts.
            for worker in list(scheduler.workers.values()):
                if worker.name in gone:
                    assert not worker.has_what or all(len(task.who_has) > 1 for task in worker.has_what)
                    await scheduler.remove_worker(worker.address, stimulus_id="test", expected=True)
            results = await client.gather(futures)
            assert [result[0] for result in results] == list(range(40))
            assert scaling.statement()["retired"] == []

    run(test)


def test_a_host_goes_with_all_of_its_workers() -> None:
    async def test() -> None:
        async with cluster(3, processes=2) as (scheduler, scaling, client):
            scaling.follow(plan(1, 1, processes=2))
            await until(lambda: len(scaling.retired) == 2)
            left = {host_of(worker.name) for worker in scheduler.workers.values()} - scaling.retired
            assert len(left) == 1
            done = await client.submit(lambda: 1, pure=False)
            assert done == 1

    run(test)


def test_none_left_needs_no_place_for_data() -> None:
    async def test() -> None:
        async with cluster(2) as (_, scaling, client):
            await client.submit(bytes, 1000, pure=False)
            scaling.follow(plan(0, 0))
            await until(lambda: scaling.statement()["retired"] == ["ho-0", "ho-1"])

    run(test)


def test_grows_with_work_and_shrinks_when_it_is_done() -> None:
    async def test() -> None:
        async with cluster(3) as (_, scaling, client):
            scaling.follow(plan(1, 3))
            # Without work the least is enough, but only after some looks.
            await until(lambda: scaling.statement()["wanted"] == 1)
            assert len(scaling.retired) == 2
        async with cluster(1) as (_, scaling, client):
            scaling.follow(plan(1, 5))
            futures = client.map(time.sleep, [0.5] * 20, pure=False)
            await until(lambda: scaling.statement()["wanted"] == 5)
            assert scaling.retired == set()
            await client.cancel(futures)
            # Hosts that have not come yet are simply no longer wanted.
            await until(lambda: scaling.statement()["wanted"] == 1)
            assert scaling.retired == set()

    run(test)


def test_a_host_that_works_is_not_taken() -> None:
    async def test() -> None:
        async with cluster(2) as (scheduler, scaling, client):
            busy = client.submit(time.sleep, 1.5, workers=["ho-1"], pure=False)
            await until(lambda: any(worker.processing for worker in scheduler.workers.values()))
            scaling.follow(plan(0, 2, target_duration_ms=10**9))
            await until(lambda: scaling.retired == {"ho-0"})
            await busy
            assert busy.status == "finished"

    run(test)


def test_a_lower_limit_moves_work_away_too() -> None:
    async def test() -> None:
        async with cluster(3) as (scheduler, scaling, client):
            busy = client.map(time.sleep, [1.0 + n / 100 for n in range(3)], pure=False)
            await until(lambda: sum(bool(worker.processing) for worker in scheduler.workers.values()) == 3)
            scaling.follow(plan(0, 1, target_duration_ms=1))
            await until(lambda: len(scaling.retired) == 2)
            assert scaling.statement()["wanted"] == 1
            await client.cancel(busy)

    run(test)


def test_a_worker_that_somebody_started_by_hand_is_left_alone() -> None:
    async def test() -> None:
        async with (
            cluster(1) as (scheduler, scaling, _client),
            Worker(scheduler.address, nthreads=1, dashboard=False, name="mine"),
        ):
            scaling.follow(plan(1, 1))
            await asyncio.sleep(0.5)
            assert scaling.statement() == {"op": "scaling", "wanted": 1, "retired": [], "absent": []}

    run(test)


def test_who_is_preferred_goes_when_the_number_comes_first() -> None:
    async def test() -> None:
        async with cluster(3) as (_, scaling, client):
            # The one with the most to lose would be the last to go by itself.
            kept = client.submit(bytes, 100_000, workers=["ho-2"], pure=False)
            await kept
            assert await client.scheduler.towline_prefer(workers=["ho-2"]) == ("ho-2",)
            scaling.follow(plan(2, 2))
            await until(lambda: scaling.retired == {"ho-2"})
            assert await client.scheduler.towline_retire(workers=["ho-2"]) in (("ho-2",), ())
            assert scaling.retired == {"ho-2"}
            assert len(await kept) == 100_000

    run(test)


def test_a_host_whose_worker_went_is_missed_after_a_while() -> None:
    async def test() -> None:
        async with cluster(2) as (scheduler, scaling, _client):
            scaling.follow(plan(2, 2))
            assert scaling.statement()["absent"] == []
            address = next(worker.address for worker in scheduler.workers.values() if worker.name == "ho-1")
            scheduler.close_worker(address)
            await until(lambda: set(scaling.hosts()) == {"ho-0"})
            now = time.monotonic()
            assert scaling.absent({"ho-0"}, now + 50) == [], "a nanny may start it anew"
            assert scaling.absent({"ho-0"}, now + 70) == ["ho-1"]
            assert scaling.absent({"ho-0", "ho-1"}, now + 80) == [], "it came back"
            many = {f"ho-{number:03}" for number in range(120)}
            scaling.absent(many, now + 90)
            assert len(scaling.absent(set(), now + 200)) == 100
            assert len(scaling.seen) == 100, "what went long ago is forgotten"

    run(test)


def test_people_choose_which_go() -> None:
    async def test() -> None:
        async with cluster(3) as (scheduler, scaling, client):
            scaling.follow(plan(2, 2))
            address = next(worker.address for worker in scheduler.workers.values() if worker.name == "ho-1")
            assert await client.scheduler.towline_retire(workers=[address]) == ("ho-1",)
            await asyncio.sleep(0.5)
            assert scaling.statement() == {"op": "scaling", "wanted": 2, "retired": ["ho-1"], "absent": []}
            assert await client.scheduler.towline_retire(workers=["nobody"]) == ()

    run(test)


def test_data_that_cannot_be_moved_holds_up_no_growth() -> None:
    async def test() -> None:
        async with cluster(2) as (scheduler, scaling, client):
            stuck = asyncio.Event()
            original = scheduler.retire_workers

            async def never(**_: Any) -> list[str]:
                await stuck.wait()
                return []

            scheduler.retire_workers = never
            scaling.follow(plan(1, 8))
            await until(lambda: scaling.leaving != set())
            futures = client.map(time.sleep, [0.5] * 40, pure=False)
            await until(lambda: scaling.statement()["wanted"] == 8)
            await client.cancel(futures)
            scheduler.retire_workers = original
            stuck.set()
            await until(lambda: scaling.statement()["wanted"] == 1 and len(scaling.retired) == 1)

    run(test)


def test_an_error_of_one_look_does_not_end_the_looking() -> None:
    async def test() -> None:
        async with cluster(2) as (scheduler, scaling, _client):
            original = scheduler.adaptive_target
            scheduler.adaptive_target = None
            scaling.follow(plan(0, 2))
            await asyncio.sleep(0.2)
            scheduler.adaptive_target = original
            await until(lambda: scaling.statement()["wanted"] == 0)

    run(test)
