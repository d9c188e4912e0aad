"""Another configuration while requests run: read whole, checked, then swapped whole."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge
from watchfiles import awatch

from orchestrator.clock import Clock
from orchestrator.config import (
    OrchestratorConfig,
    ServerConfig,
    counting_folder,
    load_config,
    with_state,
)
from orchestrator.endpoints import Endpoints
from orchestrator.endpoints.calls import Call, Reply
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.errors import OrchestratorError
from orchestrator.patterns import PatternLibrary, digest_of
from orchestrator.redaction import know
from orchestrator.server.keyed import Leaving
from orchestrator.server.longest import Bounded

QUIET_MS = 100  # files that change faster than that are still being written
LOOK_MS = 5_000  # how often it is looked anyway: not every file system tells of changes
LIVE = frozenset(("heartbeat_s", "max_tokens"))  # of `server`, what needs no restart
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A configuration and all its patterns, read and checked."""

    config: OrchestratorConfig
    patterns: PatternLibrary


class Source:
    """The files that a configuration is from.

    Args:
        path: The configuration's file.
        read: Reads and checks it, and raises `OrchestratorError`; default: `read_setting`.
    """

    def __init__(self, path: Path, read: Callable[[], Setting] | None = None) -> None:
        self.path = path
        self.read = read or partial(read_setting, path)
        self._asked: Callable[[], None] | None = None

    def ask(self) -> None:
        """Have it read again, changed or not, by whoever follows it."""
        if self._asked is not None:
            self._asked()

    @asynccontextmanager
    async def follow(self, switch: "Switch", registry: CollectorRegistry) -> AsyncIterator[None]:
        """Put every configuration that can be used into place, as long as a block lasts.

        Args:
            switch: Who is to answer by it.
            registry: Where it is counted.
        """
        follower = Follower(self, switch, registry)
        self._asked = follower.ask
        following = asyncio.create_task(follower.run())
        try:
            yield
        finally:
            self._asked = None
            await _end(following)


def read_setting(path: Path) -> Setting:
    """Everything that a configuration file leads to.

    Raises:
        ConfigError: it cannot be used.
        PatternError: nor can its patterns.
    """
    config = with_state(load_config(path))
    patterns = PatternLibrary(*_patterns_folder(config))
    patterns.load_all()
    return Setting(config=config, patterns=patterns)


def _patterns_folder(config: OrchestratorConfig) -> list[Path]:
    return [Path(config.patterns_dir)] if config.patterns_dir else []


class Switch:
    """Answers each call by one engine from its beginning to its end, and the next by the newest.

    An engine that is not the newest any more is closed when its last call has ended.

    Args:
        engine: The first one.
        clock: Where the time comes from.
        swapped: Is called whenever there is another.
    """

    def __init__(
        self,
        engine: EnhancedOrchestrator,
        clock: Clock,
        swapped: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._swapped = swapped
        self._newest = self._generation(engine)
        self._older: set[_Generation] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def engine(self) -> EnhancedOrchestrator:
        """Who answers the next call."""
        return self._newest.engine

    async def answer(self, call: Call) -> Reply:
        """The reply to a call; its engine is needed until that has ended."""
        part = _Part(self._newest, self._has_left)
        try:
            reply = await part.generation.endpoints.answer(call)
        except BaseException:
            part.leave()
            raise
        if not isinstance(reply.body, bytes):
            return replace(reply, body=Leaving(reply.body, part))
        part.leave()
        return reply

    def swap(self, setting: Setting) -> None:
        """Answer calls by another configuration from now on."""
        before = self._newest
        self._newest = self._generation(
            before.engine.successor(setting.config, patterns=setting.patterns)
        )
        self._older.add(before)
        self._swapped()
        self._has_left(before)

    async def aclose(self) -> None:
        """Close every engine there is; runs that still go on are ended."""
        await asyncio.gather(*self._closing)
        for generation in (*self._older, self._newest):
            await generation.engine.aclose()
        self._older.clear()

    def _generation(self, engine: EnhancedOrchestrator) -> "_Generation":
        heartbeat_s = engine.config.server.heartbeat_s
        endpoints = Endpoints(Bounded(engine), heartbeat_s=heartbeat_s, clock=self._clock)
        return _Generation(engine, endpoints)

    def _has_left(self, generation: "_Generation") -> None:
        if generation.calls == 0 and generation in self._older:
            self._older.remove(generation)
            closing = asyncio.ensure_future(_close(generation.engine))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


@dataclass(slots=True, eq=False)
class _Generation:
    engine: EnhancedOrchestrator
    endpoints: Endpoints
    calls: int = 0


class _Part:
    """One call's need of its engine. It is left once; a second time does nothing."""

    def __init__(self, generation: _Generation, left: Callable[[_Generation], None]) -> None:
        self.generation = generation
        self._left = left
        self._is_left = False
        generation.calls += 1

    def leave(self) -> None:
        if not self._is_left:
            self._is_left = True
            self.generation.calls -= 1
            self._left(self.generation)


async def _close(engine: EnhancedOrchestrator) -> None:
    try:
        await engine.aclose()
    except Exception:  # noqa: BLE001 - what it was needed for has ended well
        _log.exception("an older configuration could not be closed")


class Follower:
    """Watches the files of a configuration, and has the newest that can be used put into place.

    Args:
        source: Where they are, and how they are read.
        switch: Who is to answer by it.
        registry: Where it is counted.
    """

    def __init__(self, source: Source, switch: Switch, registry: CollectorRegistry) -> None:
        self._path = source.path
        self._read = source.read
        self._switch = switch
        self._began = switch.engine.config.server
        self._bell = asyncio.Event()
        self._bell.set()  # it may have changed since it was first read
        self._is_asked = False
        self._told = ""  # of what is wrong, so that it is told once
        self._seen = ""
        self._gauges = _Gauges(registry)
        self._gauges.use(switch.engine.config_hash)

    def ask(self) -> None:
        """Read it again, changed or not."""
        self._is_asked = True
        self._bell.set()

    async def run(self) -> None:
        """Follow the files until cancelled."""
        watched, watching = frozenset[Path](), None
        try:
            while True:
                if (folders := self._folders()) != watched:
                    await _end(watching)
                    watched, watching = folders, asyncio.create_task(self._watch(folders))
                await self._bell.wait()
                self._bell.clear()
                await self._look_safely()
        finally:
            await _end(watching)

    async def _look_safely(self) -> None:
        try:
            await self.look()
        except Exception:  # noqa: BLE001 - whatever it is, the last good configuration serves on
            self._gauges.refuse()
            _log.exception("the configuration could not be followed")

    async def _watch(self, folders: frozenset[Path]) -> None:
        """Ring for every change, and now and then for none."""
        changes = awatch(
            *folders,
            watch_filter=None,
            step=QUIET_MS,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        try:
            async for _ in changes:
                self._bell.set()
        except (OSError, RuntimeError) as error:  # no such folder, no more watches
            _log.warning("changes are not watched for (%s); SIGHUP reads the file again", error)

    def _folders(self) -> frozenset[Path]:
        """Where the files are, and where the links are that lead there."""
        beside = {self._path.absolute().parent, self._path.resolve().parent}
        beside.update(_patterns_folder(self._switch.engine.config))
        return frozenset(folder for folder in beside if folder.is_dir())

    def _contents(self) -> str:
        """What the files hold, as one word that is another when any of them changes."""
        found = sha256()
        own = (path.glob("*.yaml") for path in _patterns_folder(self._switch.engine.config))
        for path in (self._path, *sorted(one for paths in own for one in paths)):
            found.update(str(path).encode("utf-8", "surrogateescape"))
            with suppress(OSError):  # it is on its way out or in
                found.update(sha256(path.read_bytes()).digest())
        return found.hexdigest()

    async def look(self) -> None:
        """Read the files if they have changed, if somebody asks for it, or if they were wrong."""
        seen = await asyncio.to_thread(self._contents)
        if seen == self._seen and not (self._is_asked or self._told):
            return
        self._seen, asked, self._is_asked = seen, self._is_asked, False
        try:
            setting = await asyncio.to_thread(self._read_and_know)
        except OrchestratorError as error:
            self._refuse(error, asked=asked)
            return
        if await asyncio.to_thread(self._contents) != seen:
            self._bell.set()  # they changed meanwhile: what was read may be half of this and that
            return
        self._take(setting, asked=asked)

    def _read_and_know(self) -> Setting:
        """What the files hold; of a thousand keys it takes long to learn what not to log."""
        setting = self._read()
        know(setting.config)
        return setting

    def _refuse(self, error: OrchestratorError, *, asked: bool) -> None:
        told = str(error)
        if told != self._told or asked:
            self._gauges.refuse()
            _log.error("the configuration has not changed, for the new one has mistakes:\n%s", told)
        self._told = told

    def _take(self, setting: Setting, *, asked: bool) -> None:
        was_wrong, self._told = bool(self._told), ""
        before = self._switch.engine
        same_patterns = setting.patterns.digest == digest_of(before.patterns)
        if same_patterns and setting.config == before.config:
            if was_wrong or asked:
                _log.info("configuration %s is in use still", before.config_hash)
            self._gauges.use(before.config_hash)
            return
        self._switch.swap(setting)
        new = self._switch.engine.config_hash
        self._gauges.use(new, is_new=True)
        _log.info("configuration %s is in use, in the place of %s", new, before.config_hash)
        waiting = needs_restart(self._began, setting.config.server)
        if waiting:
            _log.warning("%s will change with a restart", ", ".join(waiting))


def needs_restart(began: ServerConfig, now: ServerConfig) -> list[str]:
    """Which settings the gateway goes on with as it began, whatever the file says now."""
    return [
        f"server.{name}"
        for name in ServerConfig.model_fields
        if name not in LIVE and getattr(began, name) != getattr(now, name)
    ]


class _Gauges:
    """Which configuration is in use, and how reading a new one went."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._hash = Gauge(
            "orchestrator_config_hash",
            "The configuration in use, as receipts name it",
            ("hash",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._failed = Gauge(
            "orchestrator_config_reload_failed",
            "1 while the configuration's files hold mistakes, and the last good one is used",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._used = ""
        self._reloads = Counter(
            "orchestrator_config_reloads",
            "Configurations that were read while requests were taken",
            ("outcome",),
            registry=registry,
        )

    def use(self, name: str, *, is_new: bool = False) -> None:
        if self._used and counting_folder() is None:
            self._hash.remove(self._used)
        elif self._used:  # removing it is not possible where several processes count
            self._hash.labels(self._used).set(0)
        self._used = name
        self._hash.labels(name).set(1)
        self._failed.set(0)
        if is_new:
            self._reloads.labels("ok").inc()

    def refuse(self) -> None:
        self._failed.set(1)
        self._reloads.labels("failed").inc()


async def _end(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
