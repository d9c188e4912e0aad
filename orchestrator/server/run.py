"""The gateway as a program: where it listens, who is let in, and how it ends."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal

import uvicorn

from adapters import is_loading
from orchestrator.clock import Clock, SystemClock
from orchestrator.config import (
    OrchestratorConfig,
    ledger_url,
    state_dir,
)
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.errors import OrchestratorError
from orchestrator.garbage import collect_at_rest
from orchestrator.ledger_database import find
from orchestrator.redaction import know
from orchestrator.server import logs
from orchestrator.server.app import LOOPBACK, create_app
from orchestrator.server.gate import Gate
from orchestrator.server.keys import KeyFile, KeyRecord
from orchestrator.server.protocol import protocol
from orchestrator.server.reload import Setting, Source, read_setting
from orchestrator.shared_windows import shared_windows

BACKLOG = 2048
ANY = frozenset[str]()
SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
CLOSING_S = 5  # what is left of requests once they have been cut off


class CannotServe(OrchestratorError):
    """The gateway cannot be started as it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a gateway is to be, as every process of it is told.

    Attributes:
        config: The file of the configuration.
        keys: The file of the keys.
        host: Where it listens: an address.
        is_loopback: Whether only this machine reaches it there.
        workers: In how many processes.
        is_capped: Whether what calls may cost in the course of time is limited.
    """

    config: Path
    keys: Path
    host: str
    is_loopback: bool
    workers: int = 1
    is_capped: bool = True

    @property
    def hosts(self) -> frozenset[str]:
        """The names it is asked under, beside `server.hosts`; none: any."""
        if ipaddress.ip_address(self.host).is_unspecified:
            return ANY
        own = f"[{self.host}]" if ":" in self.host else self.host
        return frozenset((*LOOPBACK, own.lower()))


def plan(config: Path, *, host: str, keys: Path | None = None, workers: int = 1) -> Plan:
    """What is to be served, if it may be.

    Raises:
        CannotServe: others could ask without a key, or processes would count each for itself.
        ConfigError: the configuration cannot be used.
        PatternError: nor can its patterns.
        KeysError: nor can the keys.
    """
    settings = read_setting(config).config
    address = _resolve(host)
    file = keys or state_dir() / "keys.json"
    is_loopback = ipaddress.ip_address(address).is_loopback
    if not KeyFile(file).has_any and not is_loopback:
        raise CannotServe(
            f"{host} can be reached from other machines, and {file} holds no key: make one with "
            "`orchestrator keys create NAME`, or listen on 127.0.0.1"
        )
    shared_windows(settings, SystemClock())  # what is wrong with them is told here
    if workers > 1:
        _check_shared(settings, KeyFile(file), workers)
    return Plan(
        config=config,
        keys=file,
        host=address,
        is_loopback=is_loopback,
        workers=workers,
        is_capped=is_capped(settings, KeyFile(file).list()),
    )


def is_capped(config: OrchestratorConfig, keys: Iterable[KeyRecord]) -> bool:
    """Whether a budget of a time limits the money of all, of each caller, or of each deployment."""

    def has_cap(scope: Literal["key", "deployment", "global"], name: str) -> bool:
        windows = config.budgets.windows_of(scope, name)
        return any(window.money_usd is not None for window in windows)

    def is_own(key: KeyRecord) -> bool:
        return key.money_usd_per_day is not None or has_cap("key", key.tenant)

    callers = [key for key in keys if key.revoked is None]
    priced = (name for name, model in config.models.items() if model.price != "free")
    return (
        has_cap("global", "")
        or all(has_cap("deployment", name) for name in priced)
        or (all(map(is_own, callers)) if callers else has_cap("key", ""))
    )


def _read(planned: Plan) -> Setting:
    """The configuration as it is now, if it may be served in so many processes."""
    setting = read_setting(planned.config)
    if planned.workers > 1:
        _check_shared(setting.config, KeyFile(planned.keys), planned.workers)
    return setting


def _resolve(host: str) -> str:
    """The address that a name stands for.

    Raises:
        CannotServe: there is none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotServe(f"--host {host!r} is no address of this machine") from error
    return str(found[0][4][0]).partition("%")[0]


def _check_shared(config: OrchestratorConfig, keys: KeyFile, workers: int) -> None:
    """Raise `CannotServe` where each process would count for itself what is meant for all."""
    if find(ledger_url(config)).is_memory:
        raise CannotServe(
            f"ledger.url is in memory, where each of {workers} workers would count for itself; "
            "name a file or a PostgreSQL database, or use --workers 1"
        )
    if config.limits is None:
        for whose in (*_rated_models(config), *_rated_keys(keys)):
            raise CannotServe(
                f"{whose} are kept in memory, and each of {workers} workers would use them up for "
                "itself; name a Redis in limits.url, or use --workers 1"
            )


def _rated_models(config: OrchestratorConfig) -> Iterator[str]:
    for name, model in config.models.items():
        if model.rates.requests_per_minute or model.rates.tokens_per_minute:
            yield f"models.{name}.rates"


def _rated_keys(keys: KeyFile) -> Iterator[str]:
    for record in keys.list():
        if record.revoked is None and (record.requests_per_minute or record.tokens_per_minute):
            yield f"the requests and tokens a minute of key {record.id}"


def listen(address: str, port: int) -> socket.socket:
    """A socket that the gateway's processes share; port 0 takes a free one.

    Raises:
        CannotServe: the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CannotServe(
            f"port {port} of {address} cannot be listened on ({error.strerror}); give another "
            "--port (0 takes a free one)"
        ) from error


class Server(uvicorn.Server):
    """uvicorn's, which lets requests end before it does.

    The first signal lets nobody in any more, and whoever is in has `drain_s`; the second ends
    everything at once, and all the same in order.

    Args:
        config: uvicorn's.
        gate: Which requests pass.
        drain_s: How long those under way may go on.
        started: Is called once requests are taken.
        signals: Which are listened to.
        reload: Is called for SIGHUP.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        gate: Gate,
        *,
        drain_s: float,
        started: Callable[[], None],
        signals: Sequence[signal.Signals],
        clock: Clock,
        reload: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._reload = reload
        self._gate = gate
        self._drain_s = drain_s
        self._has_started = started
        self._signals = signals
        self._clock = clock
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, and say so."""
        await super().startup(sockets)
        self._has_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals; a drained server has ended well, so none is raised again."""
        loop = asyncio.get_running_loop()

        def hear(sig: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.end)

        reload = self._reload or self.end

        def hang_up(sig: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(reload)

        before = {one: signal.signal(one, hear) for one in self._signals}
        if self._reload is not None and HANG_UP is not None:
            before[HANG_UP] = signal.signal(HANG_UP, hang_up)
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def end(self) -> None:
        """Begin to end, or end faster than before."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        else:
            self._gate.admission.cut()

    async def _drain(self) -> None:
        await self._gate.admission.drain(self._clock, self._drain_s)
        self.should_exit = True


def serve(
    planned: Plan,
    listening: socket.socket,
    *,
    started: Callable[[], None],
    signals: Sequence[signal.Signals] = SIGNALS,
) -> None:
    """Take requests in this process until it is told to end."""
    logs.set_up()
    source = Source(planned.config, partial(_read, planned))
    setting = source.read()
    know(setting.config)
    config = setting.config
    clock = SystemClock()
    gate = create_app(
        EnhancedOrchestrator(
            config,
            patterns=setting.patterns,
            keeps_receipts=True,
            processes=planned.workers,
        ),
        keys=KeyFile(planned.keys),
        is_open=planned.is_loopback,
        hosts=planned.hosts,
        watch=(logs.AccessLog(),),
        clock=clock,
        processes=planned.workers,
        source=source,
    )
    collect_at_rest()
    settings = uvicorn.Config(
        gate,
        http=protocol(head_s=config.server.read_s, head_bytes=2 * config.server.header_kb * 1024),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = Server(
        settings,
        gate,
        drain_s=config.server.drain_s,
        started=started,
        signals=signals,
        clock=clock,
        reload=source.ask,
    )
    with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
        runner.run(_to_the_end(server, listening))


async def _to_the_end(server: Server, listening: socket.socket) -> None:
    """Take requests until the end, and wait for no import of litellm that still goes on."""
    await server.serve([listening])
    if is_loading():
        logging.shutdown()
        os._exit(0)  # everything is in order, and Python would first wait for that thread
