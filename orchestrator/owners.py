"""Tell whether the process that left something behind still runs."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, as far as this system tells it from every other there is or was.

    Attributes:
        machine: The host's name and the id its system was installed with.
        boot: The id of the host's start.
        space: Which numbering of processes the number belongs to; containers have their own.
        pid: The process's number.
        started: When the number was given to it, in the kernel's own unit.
        name: Which of the process's own it is.
    """

    machine: str
    boot: str
    space: str
    pid: int
    started: str
    name: str = ""

    def __str__(self) -> str:
        return "|".join(
            (self.machine, self.boot, self.space, str(self.pid), self.started, self.name)
        )


def this_process(name: str = "") -> Owner:
    """Who we are."""
    return Owner(
        machine=f"{socket.gethostname().replace('|', '-')}/{_read('/etc/machine-id')}",
        boot=_read("/proc/sys/kernel/random/boot_id"),
        space=_link("/proc/self/ns/pid"),
        pid=os.getpid(),
        started=next(iter(_status(os.getpid())[19:]), ""),
        name=name,
    )


def is_gone(text: str, here: Owner) -> bool:
    """Whether the process that a text names has certainly ended.

    One on another machine, or in another container, cannot be seen from here: it may well run.
    """
    machine, boot, space, pid, started, _ = text.split("|")
    # Two machines of one name and without an id of their own could be taken for each other.
    if machine != here.machine or not boot:
        return False
    if boot != here.boot:
        return not machine.endswith("/")
    if space != here.space:
        return False
    return not _runs(int(pid), started)


def _runs(pid: int, started: str) -> bool:
    status = _status(pid)
    if status:
        # One that was killed stays in the table until its parent has looked.
        return status[0] not in {"Z", "X"} and status[19] == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, is somebody else's, and this system hides those
        return True
    return True


def _status(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing if it says nothing."""
    # The program's name before it, in brackets, may hold anything.
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
