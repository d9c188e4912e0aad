"""The gateway in several processes that share one socket: started, watched, replaced, ended."""

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from orchestrator.config import counting_in, state_dir
from orchestrator.owners import is_gone, this_process
from orchestrator.server import logs, run

TICK_S = 0.2  # how soon a signal is heeded
IMPATIENT = 3  # as many signals, and nobody is waited for any more
READY = b"ready"
OWNER = "owner"  # the file that says whose a folder is
_spawn = multiprocessing.get_context("spawn")
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Worker:
    """One of the processes, and the line to it, which breaks when either end is gone."""

    process: SpawnProcess
    line: Connection
    is_ready: bool = False
    told: int = 0  # how often it was told to end


def supervise(planned: run.Plan, listening: socket.socket, *, started: Callable[[], None]) -> bool:
    """Serve in as many processes as planned until told to end; whether that went well.

    A worker that dies is replaced. One that dies before it could take requests ends it all: the
    next would do no better.
    """
    logs.set_up()
    has_started, is_ending, went_well = False, False, True
    with _counting() as counted, _heard() as signals:
        crew = [_hire(planned, listening) for _ in range(planned.workers)]
        while crew:
            _hear_from(crew, wait([end for one in crew for end in _ends(one)], TICK_S))
            if not has_started and all(one.is_ready for one in crew):
                has_started = True
                started()
            if signals:
                is_ending = is_ending or any(one != run.HANG_UP for one in signals)
                _tell(crew, signals)
            for one in [one for one in crew if not one.process.is_alive()]:
                crew.remove(one)
                one.line.close()
                mark_process_dead(one.process.pid, str(counted))  # type: ignore[no-untyped-call]
                if is_ending:
                    continue
                if one.is_ready:
                    _log.error("worker %s has died; another takes its place", one.process.pid)
                    crew.append(_hire(planned, listening))
                else:
                    _log.error("worker %s could not start", one.process.pid)
                    is_ending, went_well = True, False
                    _end(crew)
    return went_well


@contextmanager
def _counting() -> Iterator[Path]:
    """A folder in which the processes that are started inside add up what they count.

    What a process that was killed has left of such is removed.
    """
    state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    parent, here = state_dir() / "metrics", this_process()
    parent.mkdir(mode=0o700, exist_ok=True)
    for left in parent.iterdir():
        with suppress(OSError, ValueError):  # it is being made, or removed, by another
            if is_gone((left / OWNER).read_text("utf-8"), here):
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        (folder / OWNER).write_text(str(here), "utf-8")
        with counting_in(folder):
            yield folder


def _hire(planned: run.Plan, listening: socket.socket) -> Worker:
    line, other_end = _spawn.Pipe()
    process = _spawn.Process(target=_work, args=(planned, listening, other_end))
    process.start()
    other_end.close()
    return Worker(process=process, line=line)


def _work(planned: run.Plan, listening: socket.socket, line: Connection) -> None:
    """What a worker does. Ctrl-C goes to all processes of a terminal: who watches passes it on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if run.HANG_UP is not None:  # before it listens to it, it has read the newest anyway
        signal.signal(run.HANG_UP, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    run.serve(planned, listening, started=lambda: line.send_bytes(READY), signals=(signal.SIGTERM,))


def _end_with(line: Connection) -> None:
    """End this process when who watches it is gone."""
    with suppress(EOFError, OSError):
        line.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)


def _ends(worker: Worker) -> tuple[Any, ...]:
    """What tells of a worker: its end, and, until it has spoken, its line."""
    sentinel = worker.process.sentinel
    return (sentinel,) if worker.is_ready else (sentinel, worker.line)


def _hear_from(crew: list[Worker], ready: list[Any]) -> None:
    for one in crew:
        if one.line in ready:
            with suppress(EOFError, OSError):  # it has died, as its sentinel says
                one.is_ready = one.line.recv_bytes() == READY


def _tell(crew: list[Worker], signals: list[int]) -> None:
    """Pass on what was heard since."""
    while signals:
        if signals.pop() == run.HANG_UP:
            for one in crew:
                if one.is_ready and one.process.pid is not None:
                    os.kill(one.process.pid, run.HANG_UP)
        else:
            _end(crew)


def _end(crew: list[Worker]) -> None:
    """Tell all to end; who will not hear is killed at last."""
    for one in crew:
        one.told += 1
        if one.told < IMPATIENT:
            one.process.terminate()
        else:
            one.process.kill()


@contextmanager
def _heard() -> Iterator[list[int]]:
    """The signals that have come and were not heeded yet."""
    signals: list[int] = []

    def hear(sig: int, frame: FrameType | None) -> None:
        signals.append(sig)

    heeded = run.SIGNALS if run.HANG_UP is None else (*run.SIGNALS, run.HANG_UP)
    before = {one: signal.signal(one, hear) for one in heeded}
    try:
        yield signals
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
