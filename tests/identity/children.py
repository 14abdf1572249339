"""Forked children that do on their parent's pool what the parent does.

A child's exit status is how many of its replies were foreign, 99 for any error. One that hangs
is ended by SIGALRM.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import redis

from tests.identity.workload import BOUND_S, Workload, check_slots, spawn_thread

FAILED = 99
N_WORKERS = 2
ENOUGH = 20


def work(client: redis.Redis, seed: int) -> int:
    """Do some commands on the pool this process was born with; return how many were foreign."""
    workload = Workload(client, seed, f"child{os.getpid()}")
    workload.start(spawn_thread, N_WORKERS)
    while workload.tally.right < ENOUGH and not workload.tally.foreign:
        time.sleep(0.002)
    workload.stop()
    gc.collect()
    check_slots(client.connection_pool)
    return len(workload.tally.foreign)


def fork(do: Callable[[], int], bound_s: float = BOUND_S) -> int:
    """Start a child that does this and exits with what it returns; return its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads are running: our point
        pid = os.fork()
    if pid:
        return pid
    status = FAILED
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(bound_s))
        status = do()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def exit_status(pid: int) -> int:
    """Wait for a child; negative: the signal that has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
