"""How many worker hosts a cluster has: the scheduler's word on it, and the data of those that go.

The plan comes from the agent (it is part of what the control plane signed): at least and at most so many hosts. Where
the two are equal somebody chose the number; else the scheduler's own estimate of its work decides between them. Hosts
that are too many are retired first: they get no more tasks, and their data moves to others. Only then the agent is told
that they may go, and the control plane ends them. It goes on like this whether or not the process that asked for it
still lives.

Loaded by `towline_scheduler.py`, in the scheduler only.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from distributed import Scheduler

logger = logging.getLogger("distributed.towline")

HostOf = Callable[[Any], str]

#: Looks in a row that find a chosen number exceeded. A host that is being ended may just have come.
FIXED_LOOKS = 2
FIXED_INTERVAL = 1.0
#: What a worker host is called.
HOST = re.compile(r"ho-[a-z0-9]+")
#: As many hosts of a kind are named at a time; others follow when these have gone.
MOST_NAMED = 100
#: A host is missed this many seconds after its last worker went: nannies start workers anew within a few.
MISSED_AFTER = 60.0


class Scaling:
    """The number of worker hosts, kept to the plan."""

    def __init__(self, scheduler: Scheduler, host_of: HostOf) -> None:
        self.scheduler = scheduler
        self.host_of = host_of
        self.plan: dict[str, Any] | None = None
        #: How many hosts there should be; None before there is a plan.
        self.wanted: int | None = None
        #: Hosts that may go, and those whose data is being moved.
        self.retired: set[str] = set()
        self.leaving: set[str] = set()
        #: Hosts that somebody wants to go before others: a smaller number may come before their word to retire them.
        self.chosen: set[str] = set()
        #: Hosts that their platform takes away: they go now, however many there are.
        self.taken: set[str] = set()
        #: Moves the data of those away, beside what else moves.
        self.freeing: asyncio.Future[list[str]] | None = None
        #: Moves data away from hosts that are too many; nobody waits for it, since it may take as long as it likes.
        self.retiring: asyncio.Future[None] | None = None
        #: Looks in a row that found too many hosts.
        self.looks = 0
        self.planned = asyncio.Event()
        #: When each host was last seen to have a worker, by the clock of the event loop's kind (monotonic seconds).
        self.seen: dict[str, float] = {}

    def follow(self, plan: dict[str, Any] | None) -> None:
        """Take in what the control plane wants; saying the same again changes nothing."""
        if plan == self.plan:
            return
        self.plan, self.looks = plan, 0
        self.taken = set(plan.get("leaving", [])) if plan is not None else set()
        if plan is not None:
            low, high = int(plan["minimum"]), int(plan["maximum"])
            # A new plan begins with what there is, as far as the plan allows.
            known = self.wanted if self.wanted is not None else len(self.hosts())
            self.wanted = min(max(known, low), high)
        self.planned.set()

    def statement(self) -> dict[str, Any] | None:
        """What the agent is told; nothing before there is a plan."""
        if self.wanted is None:
            return None
        here = set(self.hosts())
        # A host without a worker has gone, or is about to.
        self.retired &= here
        return {
            "op": "scaling",
            "wanted": self.wanted,
            "retired": sorted(self.retired)[:MOST_NAMED],
            "absent": self.absent(here, time.monotonic()),
        }

    def absent(self, here: set[str], now: float) -> list[str]:
        """Hosts that had a worker and have had none for a while; the control plane asks only of hosts that say nothing."""
        self.seen.update(dict.fromkeys(here, now))
        missed = sorted((at, host) for host, at in self.seen.items() if now - at >= MISSED_AFTER)
        # Of those that went long ago nobody asks any more.
        for _, host in missed[:-MOST_NAMED]:
            del self.seen[host]
        return sorted(host for _, host in missed[-MOST_NAMED:])

    def hosts(self) -> dict[str, list[Any]]:
        """Workers by host, retired ones too. Workers that somebody started by hand have no host, and are theirs to end."""
        found: dict[str, list[Any]] = {}
        for worker in self.scheduler.workers.values():
            if HOST.fullmatch(host := self.host_of(worker.name)):
                found.setdefault(host, []).append(worker)
        return found

    async def run(self) -> None:
        """Keep to the plan for as long as the scheduler runs."""
        try:
            while True:
                self.planned.clear()
                try:
                    self.look()
                except Exception:
                    logger.exception("Towline could not look at how many workers are needed; it goes on")
                interval = FIXED_INTERVAL
                if self.plan is not None and not self.is_fixed():
                    interval = max(0.01, int(self.plan["interval_ms"]) / 1000)
                try:
                    await asyncio.wait_for(self.planned.wait(), interval)
                except (asyncio.TimeoutError, TimeoutError):
                    pass
        finally:
            for moving in (self.retiring, self.freeing):
                if moving is not None:
                    moving.cancel()
                    await asyncio.gather(moving, return_exceptions=True)

    def is_fixed(self) -> bool:
        """Somebody chose the number."""
        return self.plan is not None and self.plan["minimum"] == self.plan["maximum"]

    def look(self) -> None:
        """Compare what there is with what is needed, once."""
        if self.plan is None or self.wanted is None:
            return
        self.free()
        plan, here = self.plan, self.present()
        high, target = int(plan["maximum"]), self.target()
        # Also those that nobody wants any more: a lower limit, or one that came when it was no longer wanted.
        fewer = len(here) > target if self.is_fixed() else target < self.wanted or len(here) > max(target, self.wanted)
        if not fewer:
            self.wanted, self.looks = target, 0
            return
        self.looks += 1
        if self.looks < (FIXED_LOOKS if self.is_fixed() else max(1, int(plan["wait_count"]))):
            return
        if self.retiring is not None and not self.retiring.done():
            return
        self.looks = 0
        going = self.choose(len(here) - target, len(here) - high) if len(here) > target else []
        self.retiring = asyncio.ensure_future(self.shrink(plan, going))

    def free(self) -> None:
        """Retire the hosts that their platform takes away. One that could not be freed is tried again at the next look."""
        if self.freeing is not None and not self.freeing.done():
            return
        if self.freeing is not None and not self.freeing.cancelled() and (error := self.freeing.exception()) is not None:
            logger.error("Towline could not move the data of hosts that are taken away; it tries again", exc_info=error)
        self.freeing = None
        if going := sorted(self.taken & set(self.hosts()) - self.retired - self.leaving):
            self.freeing = asyncio.ensure_future(self.retire(going))

    def target(self) -> int:
        """Hosts that there are to be: a chosen number, or what the work calls for within its limits."""
        assert self.plan is not None
        low, high = int(self.plan["minimum"]), int(self.plan["maximum"])
        return low if low == high else min(max(self.needed(), low), high)

    async def shrink(self, plan: dict[str, Any], going: list[str]) -> None:
        """Retire these hosts, then want no more than there are; more may be needed by then."""
        try:
            await self.retire(going)
        except Exception:
            logger.exception("Towline could not retire %d hosts; it tries again", len(going))
        if plan is self.plan and self.wanted is not None and (target := self.target()) < self.wanted:
            # Hosts that could not be spared are still wanted; those that have not come yet are no more.
            self.wanted = target if self.is_fixed() else max(target, min(self.wanted, len(self.present())))

    def present(self) -> list[str]:
        """Hosts that work, and are to go on with it."""
        return [host for host in self.hosts() if host not in self.retired | self.leaving | self.taken]

    def needed(self) -> int:
        """Hosts that the scheduler's work calls for."""
        duration = int((self.plan or {})["target_duration_ms"]) / 1000
        processes = max(1, int((self.plan or {})["processes"]))
        return math.ceil(int(self.scheduler.adaptive_target(target_duration=duration)) / processes)

    def choose(self, many: int, surely: int) -> list[str]:
        """Up to so many hosts, those with the least to lose: only hosts without work, beyond those that surely go."""
        workers = self.hosts()

        def cost(host: str) -> tuple[int, int]:
            return sum(len(w.processing) for w in workers[host]), sum(w.nbytes for w in workers[host])

        candidates = sorted(self.present(), key=cost)
        # Somebody chose the number, and perhaps whom it leaves.
        preferred = [host for host in candidates if host in self.chosen and self.is_fixed()]
        # A task that waits for others' tasks must not be started anew elsewhere.
        idle = [h for h in candidates if not any(w.processing or w.long_running for w in workers[h])]
        idle = preferred + [host for host in idle if host not in preferred]
        chosen = idle[:many]
        busy = [host for host in candidates if host not in chosen]
        return chosen + busy[: max(0, surely - len(chosen))]

    async def retire(self, hosts: Iterable[str]) -> list[str]:
        """Move the data of these hosts away and have them named as those that may go. Returns those."""
        workers = self.hosts()
        hosts = [host for host in hosts if host in workers and host not in self.leaving]
        if not hosts:
            return []
        fixed = self.is_fixed()
        names = [worker.name for host in hosts for worker in workers[host]]
        logger.info("Towline retires %d of %d worker hosts", len(hosts), len(workers))
        self.leaving.update(hosts)
        try:
            # Without removing them: a worker that is removed ends by itself, which would look like a failure.
            moved = set(await self.scheduler.retire_workers(names=names, close_workers=False, remove=False))
        finally:
            self.leaving.difference_update(hosts)
        # Dask leaves those whose data has no place to go as they were. Where somebody chose the number, they go.
        done = [host for host in hosts if fixed or host in self.taken or moved.issuperset(worker.address for worker in workers[host])]
        self.retired.update(done)
        return done

    async def retire_chosen(self, comm: Any, workers: list[str], **_: Any) -> list[str]:
        """Somebody chose these workers, by name or address: their hosts are to go. Returns those that may go now."""
        return await self.retire(sorted(self.hosts_of(workers)))

    def prefer(self, comm: Any, workers: list[str], **_: Any) -> list[str]:
        """Where fewer hosts are wanted, those of these workers are to go before others. Returns those."""
        self.chosen = {host for host in self.chosen if host in self.hosts()} | self.hosts_of(workers)
        return sorted(self.chosen)

    def hosts_of(self, workers: Iterable[str]) -> set[str]:
        """The hosts of workers that are named by name, address or host."""
        known = self.scheduler.workers
        names = {known[worker].name if worker in known else worker for worker in workers}
        return {
            host
            for host, members in self.hosts().items()
            if host in names or any(member.name in names for member in members)
        }
