"""What is used of a minute's allowance, counted in Redis for all processes and machines together.

A sliding window: what was used is kept by the moment it was used in, and forgotten a minute later.
pyrate-limiter's own bucket in Redis has an entry for every single token and none can be given back,
so two small scripts of ours stand here. Redis runs a script as one step, by its own clock: however
many processes ask at once, no minute takes more than it may, and no machine's clock matters.

Rates are a courtesy, and no reason to fail. While Redis does not answer, hardly anybody waits for
it and each process counts its share for itself; once a second, one of its calls asks again.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from orchestrator.clock import Clock
from orchestrator.config import OrchestratorConfig, limits_url
from orchestrator.errors import ConfigError
from orchestrator.owners import this_process

if TYPE_CHECKING:
    from redis.asyncio import Redis

MINUTE_MS = 60_000
MOMENT_MS = 250  # what is used within such a moment is remembered as one
CONNECTIONS = 16  # whoever finds none free waits for one: hundreds at once need no more
TURNS = 20  # of a busy loop, each long, in which what has come is read at last
ASKS_AGAIN_S = 1.0  # after that long one call looks whether Redis answers again
PREFIX = "orchestrator:"
INSTALL = "pip install 'llm-orchestrator-gateway[redis]'"
PROCESSES = f"{PREFIX}processes"
STREAMS = -1  # in the place of a window: too many streams are open
_log = logging.getLogger(__name__)

# All or nothing: the first window without room, or an open stream too many, and nothing is used.
# KEYS: who has asked within the minute; the open streams, or the same again; the windows.
# ARGV: this process; a stream or ''; how many may be open; how long it counts as open at most, in
# milliseconds; then for each window what a minute has, and how much of it is wanted.
_TAKE = f"""
local minute, width = {MINUTE_MS}, {MOMENT_MS}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local moment = math.ceil(now / width) * width

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - minute)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], minute)
local reply = {{0, 0, moment, redis.call('ZCARD', KEYS[1])}}

local function within_the_minute(key)
    local entries, moments, used, newest = redis.call('HGETALL', key), {{}}, 0, 0
    for i = 1, #entries, 2 do
        local at, amount = tonumber(entries[i]), tonumber(entries[i + 1])
        if at < now - minute then
            redis.call('HDEL', key, entries[i])
        else
            moments[#moments + 1] = {{at, amount}}
            used = used + amount
            newest = math.max(newest, at + minute + 1 - now)
        end
    end
    return moments, used, newest
end

local function wait_for(moments, excess)
    table.sort(moments, function(one, other) return one[1] < other[1] end)
    for _, entry in ipairs(moments) do
        excess = excess - entry[2]
        if excess <= 0 then return entry[1] + minute + 1 - now end
    end
    return minute + 1
end

local is_stream = ARGV[2] ~= ''
if is_stream then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
    if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then
        reply[1], reply[2] = {STREAMS}, 1
    end
end
for i = 3, #KEYS do
    local limit, amount = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local moments, used, newest = within_the_minute(KEYS[i])
    reply[2 * i - 1], reply[2 * i] = used, newest
    if reply[1] == 0 and used + amount > limit then
        reply[1], reply[2] = i - 2, wait_for(moments, used + amount - limit)
    end
end
if reply[1] ~= 0 then return reply end

local ends = moment + minute + 1 - now
for i = 3, #KEYS do
    redis.call('HINCRBY', KEYS[i], string.format('%d', moment), ARGV[2 * i])
    redis.call('PEXPIRE', KEYS[i], ends)
    reply[2 * i - 1], reply[2 * i] = reply[2 * i - 1] + tonumber(ARGV[2 * i]), ends
end
if is_stream then
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[4]), ARGV[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return reply
"""

# KEYS: what to correct. ARGV, two for each: the moment in a window and how much more or less was
# used in it, or '' and a stream that is not open any more.
_CORRECT = """
for i = 1, #KEYS do
    local moment, value = ARGV[2 * i - 1], ARGV[2 * i]
    if moment == '' then
        redis.call('ZREM', KEYS[i], value)
    elseif redis.call('HEXISTS', KEYS[i], moment) == 1 then
        redis.call('HINCRBY', KEYS[i], moment, value)
    end
end
return #KEYS
"""


class Use(NamedTuple):
    """What is wanted of a window."""

    window: str
    per_minute: int
    amount: int


class Stream(NamedTuple):
    """A place among somebody's open streams, for as long as `longest_s` if nobody leaves it."""

    whose: str
    name: str
    most: int
    longest_s: float


class Filled(NamedTuple):
    """How full a window is, and how long until it is empty if nothing more is used."""

    used: int
    empties_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What Redis says.

    Attributes:
        moment: When it was used; what is wanted for a correction.
        filled: How full each window is, with what was used now.
        full: The place of the first window without room, `STREAMS` for too many streams; None:
            all of it was used.
        wait_s: How long until that window has room.
    """

    moment: int
    filled: tuple[Filled, ...]
    full: int | None = None
    wait_s: float = 0.0


class SharedWindows:
    """The windows in one Redis, and whether it answers. Belongs to one event loop.

    Args:
        url: Where Redis is.
        timeout_s: How long it may take.
        clock: Where the time comes from.
        processes: How many share the rates, as far as that is known before Redis has told.

    Raises:
        ConfigError: the package `redis` is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float, clock: Clock, processes: int = 1) -> None:
        self._client = _client(url)
        self._take = self._client.register_script(_TAKE)
        self._correct = self._client.register_script(_CORRECT)
        self._name = urlsplit(url).netloc.rpartition("@")[2] or "a socket of this machine"
        self._password = urlsplit(url).password or ""
        self._process = str(this_process())
        self._timeout_s = timeout_s
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._clock = clock
        self._processes = self._seen = processes
        self._asks_again_s: float | None = None  # None: Redis answers
        self._corrections: list[tuple[str, str, int | str]] = []
        self._correcting: asyncio.Task[None] | None = None

    @property
    def is_down(self) -> bool:
        """Whether Redis did not answer the last time."""
        return self._asks_again_s is not None

    @property
    def share(self) -> int:
        """Of how many processes this is one; each has that part of a rate while Redis is down."""
        return max(self._processes, self._seen)

    async def take(self, uses: Sequence[Use], stream: Stream | None = None) -> Verdict | None:
        """Use so much of each window, if there is room in all; None: Redis does not answer."""
        await self._flush()
        keys = [PROCESSES, PROCESSES if stream is None else _streams_of(stream.whose)]
        keys += (PREFIX + use.window for use in uses)
        values: list[int | str] = [self._process, "", 0, 0]
        if stream is not None:
            values[1:] = (stream.name, stream.most, int(stream.longest_s * 1000))
        for use in uses:
            values += (use.per_minute, use.amount)
        reply = await self._ask(self._take, keys, values)
        if reply is None:
            return None
        place, wait_ms, moment, self._seen, *filled = reply
        return Verdict(
            moment=moment,
            filled=tuple(map(_filled, filled[::2], filled[1::2])),
            full=place - 1 if place > 0 else place or None,
            wait_s=wait_ms / 1000,
        )

    def correct(self, window: str, moment: int, difference: int) -> None:
        """More or less was used at that moment; Redis is told soon, and this does not wait."""
        if difference:
            self._tell((PREFIX + window, str(moment), difference))

    def leave(self, stream: Stream) -> None:
        """It is not open any more."""
        self._tell((_streams_of(stream.whose), "", stream.name))

    async def aclose(self) -> None:
        """Tell what there is to tell, and hang up."""
        if self._correcting is not None:
            await asyncio.wait({self._correcting})
        await self._flush()
        await self._client.aclose()

    def _tell(self, correction: tuple[str, str, int | str]) -> None:
        self._corrections.append(correction)
        if self._correcting is None or self._correcting.done():
            self._correcting = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        """Send what is to be corrected. What cannot be sent is forgotten, as all is in a minute."""
        corrections, self._corrections = self._corrections, []
        if corrections:
            values = [value for _, *both in corrections for value in both]
            await self._ask(self._correct, [key for key, *_ in corrections], values)

    async def _ask(self, script: Any, keys: list[str], values: list[Any]) -> list[int] | None:
        from redis.exceptions import RedisError  # noqa: PLC0415 - optional, and loaded by now

        async with self._connections:
            now_s = self._clock.monotonic()
            if self._asks_again_s is not None:
                if now_s < self._asks_again_s:
                    return None
                self._asks_again_s = now_s + ASKS_AGAIN_S  # the others go on meanwhile
            try:
                reply = await self._in_time(script(keys=keys, args=values))
            except (RedisError, OSError) as error:
                self._is_lost(error)
                return None
            self._is_back()
            return reply

    async def _in_time(self, asking: Coroutine[Any, Any, list[int]]) -> list[int]:
        """What Redis replies.

        Raises:
            TimeoutError: nothing, and it is not only that we had no time to look.
        """
        task = asyncio.ensure_future(asking)
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
            for _ in range(TURNS):
                if task.done():
                    return task.result()
                await self._clock.sleep(0)
            raise TimeoutError(f"no answer within {self._timeout_s:g} s")
        finally:
            task.cancel()
            if task.done() and not task.cancelled():
                task.exception()  # somebody has looked: it is no news when nobody waits any more

    def _is_lost(self, error: Exception) -> None:
        if self._asks_again_s is None:
            _log.warning(
                "Redis at %s does not answer (%s); until it does, each process counts its share of "
                "the rates for itself",
                self._name,
                self._reason(error),
            )
        self._asks_again_s = self._clock.monotonic() + ASKS_AGAIN_S

    def _reason(self, error: Exception) -> str:
        """What Redis, or the way to it, says; no password, though neither repeats one today."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        for secret in filter(None, {self._password, unquote(self._password)}):
            reason = reason.replace(secret, "***")
        return reason

    def _is_back(self) -> None:
        if self._asks_again_s is not None:
            self._asks_again_s = None
            _log.warning("Redis at %s answers again; rates are counted there", self._name)


def shared_windows(
    config: OrchestratorConfig, clock: Clock, *, processes: int = 1
) -> SharedWindows | None:
    """The windows that a configuration names, if it does.

    Raises:
        ConfigError: they cannot be used as it stands.
    """
    url = limits_url(config)
    if config.limits is None or url is None:
        return None
    return SharedWindows(url, timeout_s=config.limits.timeout_s, clock=clock, processes=processes)


def _client(url: str) -> "Redis":
    # An optional package, and a third of a second to load.
    try:
        from redis.asyncio import Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError([f"limits.url needs the package {error.name!r}: {INSTALL}"]) from error
    # Once more on a new connection: the one that is kept may have been closed while it was idle.
    return Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 1))


def _streams_of(whose: str) -> str:
    return f"{PREFIX}streams:{whose}"


def _filled(used: int, empties_ms: int) -> Filled:
    return Filled(used, empties_ms / 1000)
