"""How many bytes the other end of a connection on this machine has not read yet: Linux only."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

_GIVE_UP_S = 1.0
SOCK_DIAG = 4  # the netlink family
_BY_FAMILY, _REQUEST, _ANY_STATE, _NO_COOKIE = 20, 1, 0xFFFFFFFF, 0xFFFFFFFF
_RECEIVE_QUEUE_AT = 72  # bytes into the answer

Address = tuple[str, int]


def wait_until_read(sock: socket.socket) -> None:
    """Wait until the other end, on this machine, has read all that was sent; bounded."""
    give_up_s = time.monotonic() + _GIVE_UP_S
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        unread = _counter(sock, stack)
        while unread() and time.monotonic() < give_up_s:
            time.sleep(0.0005)


def _counter(sock: socket.socket, stack: contextlib.ExitStack) -> Callable[[], int]:
    if sock.family == socket.AF_UNIX:
        # What is sent to a unix socket stays the sender's until it is read.
        return lambda: int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    peer, own = sock.getpeername(), sock.getsockname()
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, SOCK_DIAG)
    except (OSError, AttributeError):  # a sandbox, or no Linux
        return lambda: by_table(peer, own)
    stack.callback(netlink.close)
    netlink.settimeout(_GIVE_UP_S)
    return lambda: by_netlink(netlink, peer, own)


def by_netlink(netlink: socket.socket, local: Address, remote: Address) -> int:
    """Ask for one socket: the table has a row for every connection of the last minute."""
    ends = struct.pack("!HH", local[1], remote[1])
    ends += b"".join(socket.inet_aton(host).ljust(16, b"\0") for host, _ in (local, remote))
    ends += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    asked = struct.pack("=BBxxI", socket.AF_INET, socket.IPPROTO_TCP, _ANY_STATE) + ends
    netlink.send(struct.pack("=IHHII", 16 + len(asked), _BY_FAMILY, _REQUEST, 1, 0) + asked)
    answer = netlink.recv(4096)
    if struct.unpack_from("=H", answer, 4)[0] != _BY_FAMILY:  # there is no such socket any more
        return 0
    return int(struct.unpack_from("=I", answer, _RECEIVE_QUEUE_AT)[0])


def by_table(local: Address, remote: Address) -> int:
    """Look into the kernel's table."""
    row = f" {_table_address(local)} {_table_address(remote)} "
    for line in Path("/proc/net/tcp").read_text().splitlines():
        if row in line:
            return int(line.split()[4].partition(":")[2], 16)
    return 0


def _table_address(address: Address) -> str:
    host = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{host:08X}:{address[1]:04X}"
