"""The fork storm: children made at every bad moment, which do whatever children do.

Threads run the identity workload all the time. Besides, the parent holds a connection with a
reply outstanding through every scene: it must come, on that very socket.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import redis

import cpool
from tests.identity.children import FAILED, exit_status, fork, work
from tests.identity.workload import attempt, check_slots, echo, make_client, running, wait_in_vain
from tests.proof.framework import Clock, Report, add_common, positive, servers, watchdog
from tests.proof.routes import Site, Sites
from tests.support.faultproxy import FaultProxy
from tests.support.servers import wait_until

SUMMARY = "fork at every bad moment; children use, close, exec, fork, hang about and die"
CHILD_BOUND_S = 30.0
PREFORKED = 3
GIVEN_UP = {"TimeoutError"}  # one of the workload's commands has no patience
HAMMERS = 4
POOL_OPTIONS: dict[str, Any] = {"socket_timeout": CHILD_BOUND_S, "timeout": CHILD_BOUND_S}


class Forks:
    """A parent with busy threads, and the scenes it makes children in.

    A scene returns the exit statuses of its children; all must be 0.
    """

    def __init__(self, site: Site, client_class: type[redis.Redis], seed: int) -> None:
        self._server = site.server
        proxy = site.routes["tcp"].proxy
        self._seeds = itertools.count(seed * 1000)
        self._chance = random.Random(seed)
        self._where = {"host": proxy.host, "port": proxy.port}
        self._client_class = client_class
        self.client = self._make()
        self._keeper = self._make()

    def _make(self, **options: Any) -> redis.Redis:
        options = {**POOL_OPTIONS, **self._where, **options}
        return make_client(client_class=self._client_class, **options)

    def _fork(self, do: Callable[[redis.Redis, int], int], client: redis.Redis) -> int:
        seed = next(self._seeds)
        return fork(lambda: do(client, seed), CHILD_BOUND_S)

    @contextlib.contextmanager
    def outstanding(self) -> Iterator[None]:
        """Await a reply meanwhile, which must come on the socket of before."""
        pool = self._keeper.connection_pool
        connection = pool.get_connection()
        connection.send_command("CLIENT", "ID")
        server_side = connection.read_response()
        connection.send_command("ECHO", "outstanding")
        yield
        assert connection.read_response() == b"outstanding"
        connection.send_command("CLIENT", "ID")
        assert connection.read_response() == server_side, "the parent's connection was lost"
        pool.release(connection)

    # Where the fork is made

    def in_main_thread(self) -> list[int]:
        """Fork while other threads work."""
        return [exit_status(self._fork(work, self.client))]

    def in_worker_thread(self) -> list[int]:
        """Fork in a thread that is not the main one."""
        pids: list[int] = []
        thread = threading.Thread(target=lambda: pids.append(self._fork(work, self.client)))
        thread.start()
        thread.join()
        return [exit_status(pid) for pid in pids]

    def during_dial(self) -> list[int]:
        """Fork while another thread waits for the reply to its handshake."""
        upstream = (self._server.host, self._server.port)
        with FaultProxy(upstream) as proxy, self._alone(port=proxy.port) as client:
            proxy.replies.stall()
            with _thread(client.ping) as pinged:
                proxy.replies.wait_held()
                pid = self._fork(work, client)
                proxy.calm()
            assert pinged == [True], "the parent's dial failed"
            return [exit_status(pid)]

    def while_waiting(self) -> list[int]:
        """Fork while another thread waits for the only connection."""
        with self._alone(max_connections=1) as client:
            pool = client.connection_pool
            connection = pool.get_connection()
            with _thread(client.ping) as pinged:
                wait_until(lambda: pool.stats().waiting, "a caller waits")
                pid = self._fork(work, client)
                pool.release(connection)
            assert pinged == [True], "the parent's waiting thread got nothing"
            return [exit_status(pid)]

    def during_checkout(self) -> list[int]:
        """Fork while threads do nothing but borrow and return."""
        over = threading.Event()
        with self._alone(max_connections=2) as client:

            def hammer() -> None:
                while not over.is_set():
                    client.connection_pool.release(client.connection_pool.get_connection())

            with contextlib.ExitStack() as stack:
                for _ in range(HAMMERS):
                    stack.enter_context(_thread(hammer))
                stack.callback(over.set)
                return [exit_status(self._fork(work, client)) for _ in range(3)]

    @contextlib.contextmanager
    def _alone(self, **options: Any) -> Iterator[redis.Redis]:
        client = self._make(**options)
        yield client
        gc.collect()
        check_slots(client.connection_pool)
        client.connection_pool.disconnect()

    # What the children do

    def children_that_close_all(self) -> list[int]:
        """Close whatever was inherited."""
        pools = [self.client.connection_pool, self._keeper.connection_pool]
        return [exit_status(self._fork(lambda *_: close_all(pools), self.client))]

    def children_that_wait(self) -> list[int]:
        """Wait for what never comes, several at a time."""
        pids = [self._fork(wait_and_work, self.client) for _ in range(3)]
        return [exit_status(pid) for pid in pids]

    def children_that_exec(self) -> list[int]:
        """Become another program."""
        return [exit_status(self._fork(use_and_exec, self.client))]

    def children_that_fork(self) -> list[int]:
        """Have grandchildren, which have children."""
        return [exit_status(self._fork(lambda *args: generations(*args, 3), self.client))]

    def children_that_are_killed(self) -> list[int]:
        """Die in the middle of it."""
        pid = self._fork(work_for_ever, self.client)
        time.sleep(self._chance.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        status = exit_status(pid)
        return [0 if status == -signal.SIGKILL else status]

    # Those who fork for others

    def multiprocessing_fork(self) -> list[int]:
        """Processes that inherit the pool."""
        return self._processes("fork", work, self.client)

    def multiprocessing_spawn(self) -> list[int]:
        """Processes that make their own."""
        return self._processes("spawn", spawned, self._client_class, self._where)

    def _processes(self, method: str, do: Callable[..., Any], *args: Any) -> list[int]:
        context: Any = multiprocessing.get_context(method)
        call = (do, *args, next(self._seeds))
        processes = [context.Process(target=in_process, args=call) for _ in range(2)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads are running
            for process in processes:
                process.start()
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]

    def prefork(self) -> list[int]:
        """A master with workers, which are ended and replaced, gently and not."""
        pids = [self._fork(serve, self.client) for _ in range(PREFORKED)]
        statuses = []
        for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            self.client.ping()  # the master uses its own too
            pid = pids.pop(0)
            os.kill(pid, how)
            status = exit_status(pid)
            statuses.append(0 if status == -how else status)
            pids.append(self._fork(serve, self.client))
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        return [*statuses, *(0 if (s := exit_status(p)) == -signal.SIGTERM else s for p in pids)]


@contextlib.contextmanager
def _thread(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run a call on a thread during the block; afterwards the list has what it returned."""
    returned: list[Any] = []
    thread = threading.Thread(target=lambda: returned.append(call()), daemon=True)
    thread.start()
    yield returned
    thread.join()


def close_all(pools: list[Any]) -> int:
    """Close the pools this process was born with."""
    for pool in pools:
        pool.disconnect()
    pools.clear()
    gc.collect()
    return 0


def wait_and_work(client: redis.Redis, seed: int) -> int:
    """Wait in vain, then work."""
    outcome = attempt(wait_in_vain, client, f"waits:{os.getpid()}")
    return work(client, seed) if outcome.kind == "right" else FAILED


def use_and_exec(client: redis.Redis, seed: int) -> int:
    """Use the pool, then run another program in place of this one."""
    if attempt(echo, client, f"exec:{os.getpid()}").kind != "right":
        return FAILED
    os.execv(sys.executable, [sys.executable, "-S", "-c", "pass"])


def generations(client: redis.Redis, seed: int, depth: int) -> int:
    """Work, and let a child do so, which has a child."""
    if depth == 0:
        return work(client, seed)
    pid = fork(lambda: generations(client, seed + depth, depth - 1), CHILD_BOUND_S)
    return work(client, seed) or abs(exit_status(pid))


def work_for_ever(client: redis.Redis, seed: int) -> int:
    """Work until killed."""
    while (foreign := work(client, seed)) == 0:
        pass
    return foreign


def serve(client: redis.Redis, seed: int) -> int:
    """Be a worker of a server: work until told to end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return work_for_ever(client, seed)


def spawned(client_class: type[redis.Redis], where: dict[str, Any], seed: int) -> int:
    """Work in a new process, on a pool of its own."""
    return work(make_client(client_class=client_class, **POOL_OPTIONS, **where), seed)


def in_process(do: Callable[..., int], *args: Any) -> None:
    """End the process with what `do` returns, or by SIGALRM."""
    signal.alarm(int(CHILD_BOUND_S))
    sys.exit(do(*args))


SCENES = (
    Forks.in_main_thread,
    Forks.in_worker_thread,
    Forks.during_dial,
    Forks.while_waiting,
    Forks.during_checkout,
    Forks.children_that_close_all,
    Forks.children_that_wait,
    Forks.children_that_exec,
    Forks.children_that_fork,
    Forks.children_that_are_killed,
    Forks.multiprocessing_fork,
    Forks.multiprocessing_spawn,
    Forks.prefork,
)


class Storm:
    """Plays scenes and counts the children."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._children: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._right = self._foreign = 0

    def play(self, forks: Forks, clock: Clock, seed: int, scenes: Any = SCENES) -> None:
        """Play all scenes, again and again until the time is up, while threads work."""
        with running(forks.client, seed) as workload:
            for number, scene in enumerate(itertools.cycle(scenes)):
                if clock.is_over and number >= len(scenes):
                    break
                self._play_scene(forks, scene)
        self._right += workload.tally.right
        self._foreign += len(workload.tally.foreign)
        for pair in workload.tally.foreign:
            self._report.violation(f"the parent: foreign reply {pair}")
        errors = dict(workload.tally.errors)
        if errors.keys() - GIVEN_UP:
            self._report.violation(f"the parent: errors {errors}")
        gc.collect()
        check_slots(forks.client.connection_pool)

    def _play_scene(self, forks: Forks, scene: Callable[[Forks], list[int]]) -> None:
        name = scene.__name__.replace("_", " ")
        try:
            with watchdog(), forks.outstanding():
                statuses = scene(forks)
        except (AssertionError, TimeoutError, redis.RedisError) as error:
            self._report.violation(f"{name}: {error!r}")
            return
        failed = [status for status in statuses if status]
        self._children[name] += len(statuses)
        self._failed[name] += len(failed)
        for status in failed:
            self._report.violation(f"{name}: {meaning(status)}")

    def print(self) -> None:
        """Print the table."""
        rows = [[name, str(n), str(self._failed[name])] for name, n in self._children.items()]
        self._report.table("forks", ("scene", "children", "failed"), rows)
        print(f"\nin the parent: {self._right} replies right, {self._foreign} foreign")


def meaning(status: int) -> str:
    """Say what the exit status of a child means."""
    if status == -signal.SIGALRM:
        return "a child hung"
    if status < 0:
        return f"a child was ended by signal {-status}"
    return "a child failed" if status == FAILED else f"a child got {status} foreign replies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_common(parser)
    parser.add_argument("--seconds", type=positive, default=60.0, help="how long (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    report = Report(options.plain)
    storm = Storm(report)
    clients = (cpool.Redis, redis.Redis)
    paths = servers(options.server)
    seconds = options.seconds / (len(clients) * len(paths))
    with Sites() as stack:
        for site, client_class in itertools.product(map(stack.start, paths), clients):
            forks = Forks(site, client_class, options.seed)
            storm.play(forks, Clock(seconds), options.seed)
    storm.print()
    return report.status()
