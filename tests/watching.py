"""Notices what makes a thread wait: files, databases, names, other processes."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

WAITS = frozenset(
    (
        *("open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir"),
        *("socket.getaddrinfo", "socket.gethostbyname", "sqlite3.connect", "subprocess.Popen"),
        *("fcntl.flock", "fcntl.lockf"),
    )
)
_watched: dict[int, list[str]] = {}


def _notice(event: str, args: tuple[object, ...]) -> None:
    if not _watched or event not in WAITS:
        return
    noticed = _watched.get(threading.get_ident())
    if noticed is not None:
        noticed.append(f"{event} {args[:1]!r}")


@contextmanager
def waits() -> Iterator[list[str]]:
    """What this thread does within a block that may take any time at all."""
    if _notice not in _hooked:  # a hook stays for as long as the interpreter does
        _hooked.append(_notice)
        sys.addaudithook(_notice)
    noticed = _watched[threading.get_ident()] = []
    try:
        yield noticed
    finally:
        del _watched[threading.get_ident()]


_hooked: list[object] = []
