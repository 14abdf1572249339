"""A MOVED that many threads meet: one refresh, in the background, and nobody waits for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from redis.crc import key_slot

from tests.client.support import no_retry
from tests.cluster.fakecluster import fake_cluster, moved
from tests.cluster.support import OURS, assert_nothing_lent, client_of
from tests.support.servers import wait_until

KEY = "key"
SLOT = key_slot(KEY.encode())
VALUE = b"$5\r\nvalue\r\n"
N_THREADS = 200
MAX_CONNECTIONS = 25


def at_once(n: int, call: Any) -> list[Any]:
    """Call in so many threads at once; return what each one got."""
    results: list[Any] = []
    together = threading.Barrier(n, timeout=30)

    def run() -> None:
        together.wait()
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


@pytest.mark.parametrize("steps", [1, 5])
def test_200_threads_that_meet_a_moved_cause_one_refresh(steps: int) -> None:
    with fake_cluster(2) as cluster:
        old, new = cluster.nodes
        cluster.all_to(old)
        for node in cluster.nodes:
            node.replies["GET"] = VALUE
        options = {"max_connections": MAX_CONNECTIONS, "timeout": 30, "reinitialize_steps": steps}
        with client_of(OURS, cluster, retry=no_retry(3), **options) as client:
            client.get(KEY)
            before = client.nodes_manager.refreshes
            cluster.all_to(new)
            old.replies["GET"] = moved(SLOT, new)
            assert at_once(N_THREADS, lambda: client.get(KEY)) == [b"value"] * N_THREADS
            # With 1 step each waits for one; a wave of threads after the other has its own.
            waves = N_THREADS // MAX_CONNECTIONS + 1 if steps == 1 else 1
            assert client.nodes_manager.refreshes - before <= waves
            assert client.get(KEY) == b"value"
            assert_nothing_lent(client)


def test_a_moved_that_tells_nothing_new_refreshes_nothing() -> None:
    with fake_cluster(2) as cluster, client_of(OURS, cluster) as client:
        owner = cluster.owners[0 if SLOT <= cluster.owners[0][1] else 1][2][0]
        owner.replies["GET"] = moved(SLOT, owner)
        before = cluster.refreshes()
        at_once(20, lambda: client.get(KEY))
        assert cluster.refreshes() == before


def test_so_many_news_refresh_once_beside() -> None:
    with fake_cluster(2) as cluster:
        old, new = cluster.nodes
        cluster.all_to(old)
        with client_of(OURS, cluster, reinitialize_steps=3) as client:
            new.replies["GET"] = VALUE
            manager = client.nodes_manager
            manager._flights._landed_s = float("-inf")  # long ago
            keys = [f"key:{i}" for i in range(3)]
            before = manager.refreshes
            for key in keys:
                slot = key_slot(key.encode())
                old.replies["GET"] = moved(slot, new)
                assert client.get(key) == b"value"
            wait_until(lambda: manager.refreshes == before + 1, "one refresh")


def test_a_lost_node_that_many_meet_is_asked_about_once_per_wave() -> None:
    with fake_cluster(2) as cluster:
        old, new = cluster.nodes
        cluster.all_to(old)
        new.replies["GET"] = VALUE
        options = {"max_connections": MAX_CONNECTIONS, "timeout": 30, "retry": no_retry(3)}
        with client_of(OURS, cluster, **options) as client:
            before = client.nodes_manager.refreshes
            cluster.all_to(new)
            old.replies["GET"] = None  # it closes
            assert at_once(N_THREADS, lambda: client.get(KEY)) == [b"value"] * N_THREADS
            assert client.nodes_manager.refreshes - before <= N_THREADS // MAX_CONNECTIONS + 1
            assert_nothing_lent(client)
