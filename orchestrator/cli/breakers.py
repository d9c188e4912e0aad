"""Which deployments a running command leaves alone, told to other commands through a small file."""

import contextlib
import json
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from orchestrator.breaker import BreakerState
from orchestrator.budget import Quote
from orchestrator.cli.asking import Engine
from orchestrator.cli.store import write_private
from orchestrator.clock import SystemClock
from orchestrator.config import RequestConfig, state_dir
from orchestrator.events import AttemptFailed, AttemptFinished, Event
from orchestrator.owners import is_gone, this_process


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """A deployment whose breaker is not closed in some process.

    Attributes:
        pid: The process.
        state: `open` or `half_open`.
        why: What opened it.
        since: Since when it is in this state.
        probe_at: When a call may try whether it has recovered.
    """

    deployment: str
    pid: int
    state: str
    why: str
    since: datetime
    probe_at: datetime | None

    def probe_in_s(self, now: datetime) -> float:
        """How long until then; nothing, if that moment has come."""
        return max(0.0, (self.probe_at - now).total_seconds()) if self.probe_at else 0.0


def folder() -> Path:
    """Where running commands leave word; it may not exist."""
    return state_dir() / "breakers"


class Reporting:
    """An engine whose breakers other commands can see, for as long as it is open.

    Looked at whenever a call has ended: only then can one have changed.
    """

    def __init__(self, engine: Engine, config_path: Path) -> None:
        self._engine = engine
        self._config = str(config_path.absolute())
        self._file = folder() / f"{os.getpid()}.json"
        self._told: Mapping[str, tuple[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._told:
            self._remove()

    def stream_request(self, request: RequestConfig) -> AsyncGenerator[Event, None]:
        return self._watched(self._engine.stream_request(request))

    def resume_request(self, run_id: str) -> AsyncGenerator[Event, None]:
        return self._watched(self._engine.resume_request(run_id))

    async def quote(self, request: RequestConfig) -> Quote:
        return await self._engine.quote(request)

    def breakers(self) -> Mapping[str, BreakerState]:
        return self._engine.breakers()

    async def _watched(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, (AttemptFailed, AttemptFinished)):
                    self._tell()
                yield event

    def _tell(self) -> None:
        """Write down what is left alone, if that has changed; a disk that refuses is no matter."""
        states = {name: state for name, state in self.breakers().items() if state.state != "closed"}
        news = {name: (state.state, state.why) for name, state in states.items()}
        if news == self._told:
            return
        self._told = news
        if not states:
            self._remove()
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self._file, json.dumps(self._word(states)).encode())

    def _word(self, states: Mapping[str, BreakerState]) -> dict[str, Any]:
        return {
            "owner": str(this_process()),
            "config": self._config,
            "at": SystemClock().now().isoformat(),
            "breakers": {
                name: {
                    "state": state.state,
                    "why": state.why,
                    "since_s": state.since_s,
                    "probe_in_s": state.probe_in_s,
                }
                for name, state in states.items()
            },
        }

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink()


def left_alone(config_path: Path) -> list[LeftAlone]:
    """What running commands with this configuration leave alone, by deployment."""
    here = this_process()
    found: list[LeftAlone] = []
    for path in sorted(folder().glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            word = json.loads(path.read_bytes())
            if word["config"] == str(config_path.absolute()) and not is_gone(word["owner"], here):
                found += _read(word, int(path.stem))
    return sorted(found, key=lambda one: (one.deployment, one.pid))


def _read(word: Mapping[str, Any], pid: int) -> Iterator[LeftAlone]:
    at = datetime.fromisoformat(word["at"])
    for name, told in word["breakers"].items():
        probe_in_s = told["probe_in_s"]
        yield LeftAlone(
            deployment=name,
            pid=pid,
            state=str(told["state"]),
            why=str(told["why"]),
            since=at - timedelta(seconds=told["since_s"]),
            probe_at=None if probe_in_s is None else at + timedelta(seconds=probe_in_s),
        )
