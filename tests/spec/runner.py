"""The runner: does what a specification says, on one implementation, and compares.

Raises AssertionError where the pool does otherwise. Nothing waits for a time to pass that a
condition could tell; every wait is bounded.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.pool.support import PATIENCE_S, run_in_child, wait_for, wait_older_than
from tests.spec.implementations import Implementation, Interrupted
from tests.spec.server import ScriptedServer, connection_class, connection_options

MAIN = "main"
TRIES = 5


def run(spec: Any, implementation: Implementation) -> None:
    """Run a specification. Raises AssertionError.

    A run that took longer than `valid_within_s` proves nothing; it is made again."""
    within_s = spec.get("valid_within_s", math.inf)
    for tries_left in reversed(range(TRIES)):
        started_s = time.monotonic()
        try:
            return _run_once(spec, implementation)
        except AssertionError:
            if time.monotonic() - started_s <= within_s or not tries_left:
                raise


def _run_once(spec: Any, implementation: Implementation) -> None:
    before = signal.signal(signal.SIGUSR1, _interrupt)
    run = Run(spec, implementation)
    try:
        run.do_all(spec["operations"])
        run.compare(spec["outcome"])
        run.check_nothing_is_lost()
    finally:
        run.end()
        signal.signal(signal.SIGUSR1, before)


def _interrupt(*_: Any) -> None:
    raise Interrupted


class Worker:
    """A named thread, which does its operations one after another."""

    def __init__(self, perform: Callable[[Any], None]) -> None:
        self._perform = perform
        self._operations: queue.Queue[Any] = queue.Queue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def give(self, operation: Any) -> None:
        """Let it do one more."""
        self._operations.put(operation)

    def _work(self) -> None:
        while (operation := self._operations.get()) is not None:
            try:
                if self._failure is None:
                    self._perform(operation)
            except BaseException as error:
                self._failure = error
            self._operations.task_done()

    def wait(self) -> None:
        """Wait until all is done; raise what went wrong, or TimeoutError."""
        done = "a thread to be done"
        wait_for(lambda: not self._operations.unfinished_tasks, done, PATIENCE_S)
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Let the thread end once it has done what it was given."""
        self._operations.put(None)
        self._thread.join(PATIENCE_S)


class Run:
    """One run: the server, the pools, who has which connection, and what happened so far."""

    def __init__(self, spec: Any, implementation: Implementation) -> None:
        self.server = ScriptedServer(**spec.get("server", {}))
        self.implementation = implementation
        self.options = spec["options"]
        self.patience_s = min(PATIENCE_S, spec.get("valid_within_s", PATIENCE_S))
        self.pools: dict[str, Any] = {}
        self.lent: dict[str, Any] = {}
        self.lenders: dict[str, Any] = {}  # of those that are still to be returned
        self.served: list[str] = []
        self.workers: dict[str, Worker] = {}
        self.pool = self.pool_of({})

    def pool_of(self, operation: Any) -> Any:
        """Return the pool an operation is about; a second one is made when first named."""
        name = operation.get("pool", MAIN)
        if name not in self.pools:
            own = connection_class(self.implementation.connection_class, self.server)
            self.pools[name] = self.implementation.pool_class(
                connection_class=own, **{**connection_options(), **self.options}
            )
        return self.pools[name]

    def do_all(self, operations: Any) -> None:
        """Do the main thread's operations, hand out the others', and wait for all."""
        for operation in operations:
            name = operation.get("thread", MAIN)
            if name == MAIN:
                self.perform(operation)
            else:
                self.worker(name).give(operation)
        for worker in self.workers.values():
            worker.wait()

    def worker(self, name: str) -> Worker:
        """Return a thread by name, started when it is first named."""
        if name not in self.workers:
            self.workers[name] = Worker(self.perform)
        return self.workers[name]

    def perform(self, operation: Any) -> None:
        """Do one operation, and compare what it returned or raised."""
        expected = operation.get("error")
        try:
            result = getattr(self, f"_{operation['name']}")(operation)
        except AssertionError:
            raise
        except BaseException as error:
            assert expected, f"{operation} has raised {error!r}"
            self._compare_error(operation, expected, error)
        else:
            assert not expected, f"{operation} has raised nothing"
            for key in ("connection", "result"):
                if key in operation and result is not None:
                    assert result == operation[key], f"{operation}: {key} {result}"

    def _compare_error(self, operation: Any, expected: Any, error: BaseException) -> None:
        error_class, beginning = self.implementation.errors[expected["kind"]]
        assert type(error) is error_class, f"{operation} has raised {error!r}"
        beginning = expected.get("text", beginning)
        assert str(error).startswith(beginning), f"{operation} says {str(error)!r}"

    # What is so at this moment

    def compare(self, state: Any) -> None:
        """Compare a state with what is so at this moment."""
        assert not (wrong := self.differences(state)), "; ".join(wrong)

    def differences(self, state: Any) -> list[str]:
        """Return in words where a state is not what is so at this moment."""
        now = {key: self._look(key, expected) for key, expected in state.items()}
        return [
            f"{key} is {now[key]}, not {state[key]}" for key in state if now[key] != state[key]
        ]

    def _look(self, key: str, expected: Any) -> Any:
        if key == "totals" and not self.implementation.counts:
            return expected
        if key in ("stats", "totals"):
            numbers = self.implementation.stats(self.pool)
            return {name: numbers[name] for name in expected}
        return {
            "connected": self.server.connected,
            "dials": lambda: self.server.dials,
            "dials_under_way": lambda: self.server.dials_under_way,
            "most_dials_at_a_time": lambda: self.server.most_dials,
            "served": lambda: list(self.served),
            "closed_to_callers": lambda: self.pool.is_closed,
        }[key]()

    def check_nothing_is_lost(self) -> None:
        """Give everything back; then the pool must lend as many as it may, each once."""
        for label, lender in self.lenders.items():
            lender.release(self.lent[label])
        if getattr(self.pool, "is_closed", False):
            return self.compare({"stats": {"open": 0, "waiting": 0}})
        self.server.accept_all()
        if hasattr(self.pool, "timeout"):
            self.pool.timeout = PATIENCE_S  # the housekeeper may be about to dial
        lent = [self.pool.get_connection() for _ in range(self.pool.max_connections)]
        assert len({connection.number for connection in lent}) == len(lent), "one was lent twice"
        for connection in lent:
            self.pool.release(connection)
        self.compare({"stats": {"in_use": 0, "waiting": 0}})

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        self.server.accept_all()
        for pool in self.pools.values():
            self.implementation.close_for_good(pool)
        for worker in self.workers.values():
            worker.end()
        self.lent.clear()
        self.server.end()

    # The operations, by the format's names

    def _check_out(self, operation: Any) -> int:
        lender = self.pool_of(operation)
        connection = lender.get_connection()
        number: int = connection.number
        label = operation.get("label", f"connection {number}")
        self.lent[label], self.lenders[label] = connection, lender
        self.served.append(operation.get("thread", MAIN))
        return number

    def _check_in(self, operation: Any) -> None:
        """The label stays known, for a second return."""
        label, pool = operation["label"], self.pool_of(operation)
        pool.release(self.lent[label])
        if self.lenders.get(label) is pool:
            del self.lenders[label]

    def _drop(self, operation: Any) -> None:
        del self.lent[operation["label"]], self.lenders[operation["label"]]

    def _send(self, operation: Any) -> None:
        self.lent[operation["label"]].send_command(*operation["command"].split())

    def _exchange(self, operation: Any) -> None:
        connection = self.lent[operation["label"]]
        connection.send_command(*operation["command"].split())
        self.server.send(connection.number, operation["reply"].encode())
        connection.read_response()

    def _drain(self, _: Any) -> None:
        self.pool.drain()

    def _resize(self, operation: Any) -> None:
        self.pool.resize(operation["max_connections"])

    def _prewarm(self, operation: Any) -> Any:
        return self.pool.prewarm(*([operation["n"]] if "n" in operation else []))

    def _close(self, operation: Any) -> Any:
        timeout = {"timeout": operation["timeout"]} if "timeout" in operation else {}
        return self.pool.close(**timeout)

    def _keep_house(self, _: Any) -> None:
        self.pool._keep_house()

    def _set(self, operation: Any) -> None:
        setattr(self.pool, operation["option"], operation["value"])

    def _interrupt(self, _: Any) -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)

    def _fork(self, operation: Any) -> None:
        run_in_child(lambda: self._run_as_child(operation))

    def _run_as_child(self, operation: Any) -> None:
        self.workers = {}  # the child has one thread
        self.do_all(operation["operations"])
        self.compare(operation.get("outcome", {}))

    def _wait_for_thread(self, operation: Any) -> None:
        self.workers[operation["target"]].wait()

    def _wait_for(self, operation: Any) -> None:
        if "passed_ms" in operation:
            wait_older_than(operation["passed_ms"] / 1000)
        state = operation.get("state", {})
        try:
            wait_for(lambda: not self.differences(state), timeout_s=self.patience_s)
        except TimeoutError:
            raise AssertionError(f"waited in vain: {self.differences(state)}") from None

    def _check(self, operation: Any) -> None:
        self.compare(operation["state"])

    def _end_dial(self, operation: Any) -> None:
        self.server.end_dial(operation["dial"], operation["outcome"])

    def _end_closing(self, _: Any) -> None:
        self.server.end_closing()

    def _server_closes(self, operation: Any) -> None:
        self.server.close(operation["connection"])

    def _server_sends(self, operation: Any) -> None:
        self.server.send(operation["connection"], operation["text"].encode())

    def _server_counts_anew(self, _: Any) -> None:
        self.server.count_clients_anew()
