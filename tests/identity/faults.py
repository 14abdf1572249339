"""Faults for the identity workload: each strikes once, at a moment of its seed's choosing."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from tests.identity.workload import Injected, Workload
from tests.support.faultproxy import FaultProxy

STUCK_S = 1.0
NEAR, FAR = 200, 4000  # bytes: a few messages, a TLS handshake
INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nkey\r\n"


class Faults:
    """What can be done to a workload that goes through a proxy."""

    def __init__(self, proxy: FaultProxy, admin: redis.Redis, workload: Workload, seed: int):
        self.proxy = proxy
        self.admin = admin
        self.workload = workload
        self.chance = random.Random(seed)
        self.struck = 0
        self.timeout_s = workload.client.connection_pool.connection_kwargs["socket_timeout"]

    def reset(self) -> None:
        """Reset all connections (RST)."""
        self.proxy.reset_connections()

    def close(self) -> None:
        """Close all connections in order, at any byte of a reply."""
        self.proxy.close_connections()

    def cut(self) -> None:
        """Close one connection within what it is being told."""
        how = self.chance.choice(("close", "reset", "half"))
        self.proxy.replies.cut_after(self.chance.randrange(NEAR), how)

    def cut_anywhere(self) -> None:
        """Close one connection within what it is being told or is telling."""
        how = self.chance.choice(("close", "reset", "half"))
        flow = self.chance.choice((self.proxy.requests, self.proxy.replies))
        flow.cut_after(self.chance.randrange(self.chance.choice((NEAR, FAR))), how)

    def half_close(self) -> None:
        """Tell all clients that no more replies will come."""
        self.proxy.half_close()

    def refuse(self) -> None:
        """Be gone for a moment."""
        self.proxy.refuse_connections()
        self.proxy.reset_connections()
        time.sleep(self.chance.random() * 0.02)
        self.proxy.accept_connections()

    def kill(self) -> None:
        """Let the server end its connections."""
        self.admin.client_kill_filter(_type="normal", skipme=True)

    def delay(self) -> None:
        """Let replies come after their readers have given up."""
        self.proxy.replies.stall(after_bytes=self.chance.randrange(100))
        time.sleep(self.timeout_s * 1.5)
        self.proxy.replies.release()

    def hold(self) -> None:
        """Let requests come after those who sent them have given up."""
        self.proxy.requests.stall(after_bytes=self.chance.randrange(100))
        time.sleep(self.timeout_s * 1.5)
        self.proxy.requests.release()

    def push(self) -> None:
        """Say something nobody has asked for."""
        with contextlib.suppress(IndexError, TimeoutError):  # nobody is connected
            self.proxy.replies.inject(INVALIDATE, wait=False)

    def split(self) -> None:
        """Deliver in pieces from here on."""
        self.proxy.replies.split(each=self.chance.choice((None, 700, 1500, 4000)))

    def split_requests(self) -> None:
        """Deliver to the server in pieces from here on."""
        self.proxy.requests.split(each=self.chance.choice((None, 700, 1500, 4000)))

    def throw(self) -> None:
        """Raise an exception in a worker's thread, wherever it is."""
        thread = self.chance.choice(self.workload.handles)
        throw_into(thread, Injected)

    def disconnect(self) -> None:
        """Disconnect the pool, connections in use included."""
        self.workload.client.connection_pool.disconnect()

    def drain(self) -> None:
        """Replace all connections."""
        self.workload.client.connection_pool.drain()

    def be_patient(self) -> None:
        """Let readers wait for twice as long: on this machine hardly a reply is in time."""
        self.timeout_s *= 2
        be_patient(self.workload.client.connection_pool, self.timeout_s)

    def strike(self, *kinds: str) -> None:
        """Do one of these."""
        getattr(self, self.chance.choice(kinds))()
        self.struck += 1


def be_patient(pool: Any, timeout_s: float) -> None:
    """Give all connections, old and new, another timeout, from their next connect on."""
    set_timeout(pool, timeout_s)
    pool.disconnect()


def set_timeout(pool: Any, timeout_s: float) -> None:
    """Give connections that connect from now on another timeout."""
    pool.connection_kwargs["socket_timeout"] = timeout_s
    for conn in [*pool._available_connections, *pool._in_use_connections]:
        conn.socket_timeout = timeout_s


def throw_into(thread: threading.Thread, error: type[BaseException]) -> None:
    """Let a thread meet an exception at its next byte code."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(error)
        )


def strike_until(
    faults: Faults, kinds: tuple[str, ...], enough: Callable[[], bool], bound_s: float
) -> None:
    """Strike again and again until it is enough. Raises TimeoutError.

    Between two strikes some replies come through, or the workload would never connect.
    """
    tally = faults.workload.tally
    give_up_s = time.monotonic() + bound_s
    while not enough():
        faults.strike(*kinds)
        right, moved_s = tally.right, time.monotonic()
        goal = right + faults.chance.randrange(30)
        while tally.right < goal and not enough():
            now_s = time.monotonic()
            if now_s > give_up_s:
                raise TimeoutError(f"not enough in {bound_s} s: {tally}")
            if tally.right > right:
                right, moved_s = tally.right, now_s
            elif now_s > moved_s + STUCK_S:
                gc.collect()  # where all wait for what is garbage, nobody makes more of it
                faults.be_patient()
                moved_s = now_s
            time.sleep(0.001)


def enough_of(faults: Faults, right: int, struck: int) -> Callable[[], Any]:
    """Enough is when so many replies were right and so many faults have struck."""
    return lambda: faults.workload.tally.right >= right and faults.struck >= struck
