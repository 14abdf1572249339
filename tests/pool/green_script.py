"""Run as `python -m tests.pool.green_script LIBRARY PORT`: a pool among green threads.

The library (gevent or eventlet) patches the standard library before anything else is
imported. Prints "ok", or raises.
"""

from __future__ import annotations

import sys

LIBRARY, PORT = sys.argv[1], int(sys.argv[2])

if LIBRARY == "gevent":
    import gevent
    from gevent import monkey

    monkey.patch_all()
    spawn, sleep, Timeout = gevent.spawn, gevent.sleep, gevent.Timeout

    def result_of(green):
        return green.get(timeout=30)

else:
    import eventlet

    eventlet.monkey_patch()
    spawn, sleep, Timeout = eventlet.spawn, eventlet.sleep, eventlet.Timeout

    def result_of(green):
        with Timeout(30):
            return green.wait()


import contextlib  # noqa: E402
import gc  # noqa: E402

import redis  # noqa: E402

import cpool  # noqa: E402

POOLS = (cpool.ConnectionPool, cpool.BlockingConnectionPool)
ORDERS = ("lifo", "fifo")


def make(pool_class, **kwargs):
    given = {"port": PORT, "max_connections": 1, "timeout": 30, "protocol": 2, **kwargs}
    return pool_class(**given)


def until(done):
    with Timeout(30):
        while not done():
            sleep(0.001)


def waiting(pool, n=1):
    """Start `n` green threads that wait, one after another."""
    greens = []
    for _ in range(n):
        before = pool.stats().waiting
        greens.append(spawn(pool.get_connection))
        until(lambda before=before: pool.stats().waiting == before + 1)
    return greens


def the_hub_runs_while_one_waits(pool):
    ticks = []

    def tick():
        while True:
            ticks.append(1)
            sleep(0.001)

    connection = pool.get_connection()
    ticker = spawn(tick)
    (waiter,) = waiting(pool)
    before = len(ticks)
    until(lambda: len(ticks) > before + 20)
    assert pool.stats().waiting == 1
    pool.release(connection)
    assert result_of(waiter) is connection
    ticker.kill()
    pool.release(connection)


def waiters_are_served_in_order(pool):
    connection = pool.get_connection()
    greens = waiting(pool, 5)
    sleep(0.006)
    for green in greens:
        pool.release(connection)
        assert result_of(green) is connection
    pool.release(connection)


def a_timeout_ends_a_wait(pool):
    connection = pool.get_connection()
    pool.timeout = 0.01
    try:
        pool.get_connection()
    except cpool.ConnectionPoolTimeoutError:
        pass
    else:
        raise AssertionError("no timeout")
    pool.timeout = 30
    pool.release(connection)


def a_timeout_of_the_library_ends_a_wait(pool):
    connection = pool.get_connection()
    with contextlib.suppress(Timeout), Timeout(0.01):
        pool.get_connection()
        raise AssertionError("it should not get here")
    assert pool.stats().waiting == 0
    pool.release(connection)


def a_killed_waiter_swallows_nothing(pool):
    connection = pool.get_connection()
    victim, other = waiting(pool, 2)
    victim.kill()
    until(lambda: pool.stats().waiting == 1)
    pool.release(connection)
    assert result_of(other) is connection
    pool.release(connection)


def a_waiter_killed_with_a_connection_in_its_hands_passes_it_on(pool):
    connection = pool.get_connection()
    victim, other = waiting(pool, 2)
    sleep(0.006)
    pool.release(connection)  # given to the victim, which has not run yet
    victim.kill()
    del victim, connection  # it may have ended before with the connection as its result
    gc.collect()
    served = result_of(other)
    served.send_command("PING")
    assert served.read_response() == b"PONG"
    pool.release(served)


def many_clients_share_few_connections(pool):
    client = redis.Redis(connection_pool=pool)

    def work(i):
        for j in range(20):
            word = f"{i}-{j}".encode()
            assert client.echo(word) == word
        return True

    assert all(result_of(green) for green in [spawn(work, i) for i in range(20)])
    assert pool.stats().timeouts == 0


SCENARIOS = (
    the_hub_runs_while_one_waits,
    waiters_are_served_in_order,
    a_timeout_ends_a_wait,
    a_timeout_of_the_library_ends_a_wait,
    a_killed_waiter_swallows_nothing,
    a_waiter_killed_with_a_connection_in_its_hands_passes_it_on,
    many_clients_share_few_connections,
)


def main():
    for pool_class in POOLS:
        for order in ORDERS:
            for scenario in SCENARIOS:
                pool = make(pool_class, order=order)
                scenario(pool)
                stats = pool.stats()
                idle = (stats.idle, stats.in_use, stats.opening, stats.waiting)
                assert idle == (1, 0, 0, 0), (scenario.__name__, stats)
                pool.disconnect()
    print("ok")


main()
