"""What the preloaded library does to calls, told by Python's own sockets.

Run by test_shim.py with the library preloaded.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from tests.syscalls.shim import Call, Shim

NOBODY = ("127.0.0.1", 1)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def main() -> None:
    """Let each call fail once, and make it again."""
    shim = Shim()
    ours, peer = socket.socketpair()
    loose = socket.socket()
    pipe_out, pipe_in = os.pipe()
    os.write(pipe_in, b"0123456789")
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    calls: dict[str, tuple[Call, int, Callable[[], Any]]] = {
        "recv": (Call.RECV, errno.ECONNRESET, lambda: ours.recv(2).decode()),
        "short recv": (Call.RECV, 0, lambda: ours.recv(2).decode()),
        "peek": (Call.PEEK, errno.EAGAIN, lambda: ours.recv(1, socket.MSG_PEEK).decode()),
        "recvmsg": (Call.RECV, 0, lambda: ours.recvmsg(2)[0].decode()),
        "read": (Call.RECV, errno.EAGAIN, lambda: os.read(ours.fileno(), 1).decode()),
        "read of a pipe": (Call.RECV, errno.EAGAIN, lambda: os.read(pipe_out, 1).decode()),
        "poll": (Call.POLL, errno.ENOMEM, lambda: len(poll.poll(0))),
        "send": (Call.SEND, errno.EPIPE, lambda: ours.send(b"abc")),
        "short send": (Call.SEND, 0, lambda: ours.send(b"abc")),
        "sendmsg": (Call.SEND, 0, lambda: ours.sendmsg([b"ab", b"c"])),
        "write": (Call.SEND, errno.EAGAIN, lambda: os.write(ours.fileno(), b"abc")),
        "setsockopt": (
            Call.OPTION,
            errno.ENOBUFS,
            lambda: ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        ),
        "settimeout": (Call.FLAGS, errno.EINVAL, lambda: ours.settimeout(None)),
        "connect": (Call.CONNECT, errno.EACCES, lambda: loose.connect(NOBODY)),
    }
    answer = {}
    for name, (call, err, made) in calls.items():
        peer.send(b"0123456789")
        with shim.ordered((call, 2, err)):
            answer[name] = [outcome(made) for _ in range(3)]
        ours.recv(10, socket.MSG_DONTWAIT)  # what is left of it
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
