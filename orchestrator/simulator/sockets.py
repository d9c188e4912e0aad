"""Sockets that refuse or ignore whoever connects, for tests of what happens before HTTP."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


def closed_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def full_backlog() -> Iterator[int]:
    """A loopback port whose queue of connections is full: to connect hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        callers = []
        try:
            for _ in range(8):
                caller = socket.socket()
                caller.setblocking(False)
                caller.connect_ex(address)
                callers.append(caller)
            yield address[1]
        finally:
            for caller in callers:
                caller.close()
