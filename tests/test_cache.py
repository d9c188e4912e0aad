"""The cache: which calls are equal, what is believed of what lies on the disk, and who waits."""

import asyncio
import dataclasses
import json
import logging
import os
import pickle
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import Completion, CompletionRequest, LLMProvider, ModelConfig, ToolCall, Usage
from adapters.config import PriceConfig, RatesConfig
from adapters.types import CompletionFold
from orchestrator import cache as cache_module
from orchestrator import cache_files
from orchestrator.cache import (
    PAUSE_S,
    PIECE,
    CompletionCache,
    SingleFlight,
    cache_key,
    is_whole,
    replay,
    secret_key,
)
from orchestrator.clock import FakeClock, SystemClock
from orchestrator.config import CacheConfig
from orchestrator.errors import CacheError

SECRET = b"0123456789abcdef0123456789abcdef"
KEY = "ab" * 32
USAGE = Usage(prompt_tokens=12, completion_tokens=7, cached_tokens=3, reasoning_tokens=2)
ANSWER = Completion(text="Rayleigh scattering.", finish_reason="stop", model="gpt-5", usage=USAGE)
REQUEST = CompletionRequest(
    messages=[{"role": "user", "content": "Why is the sky blue?"}], temperature=0.5, stop=["end"]
)
MODEL = ModelConfig(provider=LLMProvider.OPENAI, model="gpt-5", api_base="http://127.0.0.1:1/v1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "cache"


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    clock: FakeClock | None = None,
    secret: bytes | Path = SECRET,
    ttl_s: float = 3600,
    size_mb: int = 16,
) -> AsyncIterator[CompletionCache]:
    """A cache as an engine has it: open, and closed in the end."""
    config = CacheConfig(ttl_s=ttl_s, size_mb=size_mb)
    cache = CompletionCache(folder, config, secret, clock=clock or FakeClock())
    await cache.open()
    try:
        yield cache
    finally:
        await cache.aclose()


async def stored(folder: Path, count: int = 1, text: str = ANSWER.text) -> dict[str, Completion]:
    """Put answers into a cache that is closed again."""
    answers = {
        f"{number:064x}": dataclasses.replace(ANSWER, text=f"{number}: {text}")
        for number in range(count)
    }
    async with opened(folder) as cache:
        for key, answer in answers.items():
            await cache.put(key, answer)
    return answers


def mode_of(path: Path) -> int:
    """Who may do what with it."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was warned of so far."""

    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name.startswith("orchestrator.cache")
        ]

    caplog.set_level(logging.WARNING)
    return messages


# Which calls are equal.

REQUEST_CHANGES: dict[str, list[Any]] = {
    "messages": [[], [{"role": "user", "content": "Why is the sky blue"}], [*REQUEST.messages] * 2],
    "tools": [[], [{"type": "function", "function": {"name": "f"}}]],
    "tool_choice": ["auto", "none", {"type": "function"}],
    "response_format": [{}, {"type": "json_object"}],
    "max_tokens": [1, 2],
    "temperature": [None, 0, 0.0, 1, 1.0],
    "top_p": [0.5, 1.0],
    "stop": [None, "end", [], ["end", "end"]],
    "seed": [0, 1],
    "reasoning_effort": ["low", "high"],
    "extra": [{"a": None}, {"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": float("nan")}],
}
MODEL_CHANGES: dict[str, list[Any]] = {
    "provider": [LLMProvider.MISTRAL, LLMProvider.CUSTOM],
    "model": ["gpt-5-mini"],
    "api_base": [None, "http://127.0.0.1:2/v1", "${BASE}", "${OTHER_BASE}"],
    "max_tokens": [1, 2],
    "media_urls": ["refuse", "allow"],
    "done_without_finish": ["complete"],
}
MODEL_UNCHANGED: dict[str, Any] = {
    "api_key": "sk-another",
    "weight": 2.0,
    "price": PriceConfig(input_usd="1", output_usd="2"),
    "context_tokens": 1000,
    "rates": RatesConfig(requests_per_minute=1),
    "prefill": True,
}


def test_every_change_of_one_field_is_another_key() -> None:
    """Of the request, of what answers it, of the tenant, of the sample; no two are the same."""
    keys = [cache_key(REQUEST, MODEL, tenant="")]
    for field, values in REQUEST_CHANGES.items():
        changed = [dataclasses.replace(REQUEST, **{field: value}) for value in values]
        keys += [cache_key(request, MODEL, tenant="") for request in changed]
    for field, values in MODEL_CHANGES.items():
        models = [MODEL.model_copy(update={field: value}) for value in values]
        keys += [cache_key(REQUEST, model, tenant="") for model in models]
    keys.append(cache_key(REQUEST, MODEL, tenant="b"))
    keys += [cache_key(REQUEST, MODEL, tenant="", sample=sample) for sample in (1, 2)]

    assert len(set(keys)) == len(keys)
    assert set(REQUEST_CHANGES) == {field.name for field in dataclasses.fields(CompletionRequest)}


def test_what_cannot_change_an_answer_does_not_change_the_key() -> None:
    """And of every field of a deployment it is decided whether it can."""
    key = cache_key(REQUEST, MODEL, tenant="")
    for field, value in MODEL_UNCHANGED.items():
        assert cache_key(REQUEST, MODEL.model_copy(update={field: value}), tenant="") == key, field

    assert {*MODEL_CHANGES, *MODEL_UNCHANGED} == set(ModelConfig.model_fields)
    assert not set(MODEL_CHANGES) & set(MODEL_UNCHANGED)


def test_an_address_counts_by_what_its_references_stand_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another host behind the same name is another deployment; without one it is still a key."""
    model = MODEL.model_copy(update={"api_base": "http://${CACHE_HOST}/v1"})
    keys = [cache_key(REQUEST, model, tenant="")]
    for host in ("a.example", "b.example"):
        monkeypatch.setenv("CACHE_HOST", host)
        keys.append(cache_key(REQUEST, model, tenant=""))

    assert len(set(keys)) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def reordered(value: Any) -> Any:
    """The same with the keys of every mapping in another order, and tuples for lists."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return tuple(map(reordered, value)) if isinstance(value, list) else value


@given(extra=st.dictionaries(st.text(), JSON, max_size=4))
def test_the_order_of_keys_does_not_count(extra: dict[str, Any]) -> None:
    """Whatever is in the request, halves of characters and numbers that are none included."""
    one = dataclasses.replace(REQUEST, extra=extra)
    other = dataclasses.replace(REQUEST, extra=reordered(extra))

    assert cache_key(one, MODEL, tenant="") == cache_key(other, MODEL, tenant="")


@given(one=JSON, other=JSON)
def test_different_contents_are_different_keys(one: Any, other: Any) -> None:
    """Equal keys only for what is the same JSON."""
    keys = {
        cache_key(dataclasses.replace(REQUEST, extra={"x": value}), MODEL, tenant="")
        for value in (one, other)
    }
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

    assert len(keys) == (1 if same else 2)


def test_what_is_no_json_is_equal_to_nothing() -> None:
    """Such a request is never answered from a cache, and making its key does not fail."""
    circle: list[Any] = []
    circle.append(circle)
    for value in (object(), b"bytes", circle, {(1, 2): 3}):
        request = dataclasses.replace(REQUEST, extra={"x": value})
        assert cache_key(request, MODEL, tenant="") != cache_key(request, MODEL, tenant="")


# What is kept.

TEXT = st.text(st.characters(exclude_categories=[]))  # halves of characters too
TOKENS = st.integers(0, 2**53)
LOGPROBS = st.fixed_dictionaries(
    {
        "token": TEXT,
        "logprob": st.floats(-100, 0),
        "bytes": st.none() | st.lists(st.integers(0, 255), max_size=4),
        "top_logprobs": st.lists(st.fixed_dictionaries({"token": TEXT}), max_size=1),
    }
)
COMPLETIONS = st.builds(
    Completion,
    text=TEXT,
    finish_reason=st.sampled_from(["stop", "tool_calls"]),
    model=TEXT,
    reasoning=TEXT,
    tool_calls=st.lists(st.builds(ToolCall, id=TEXT, name=TEXT, arguments=TEXT)).map(tuple),
    usage=st.builds(
        Usage,
        **{field.name: TOKENS for field in dataclasses.fields(Usage) if field.name != "estimated"},
        estimated=st.booleans(),
    ),
    logprobs=st.lists(LOGPROBS, max_size=3).map(tuple),
    stop_sequence=st.none() | TEXT.filter(bool),
)


@given(completion=COMPLETIONS)
def test_an_answer_comes_out_of_its_envelope_as_it_went_in(completion: Completion) -> None:
    """Text of any kind, reasoning, tool calls, usage, probabilities."""
    envelope = cache_files.seal(SECRET, KEY, completion, at_ms=1000)

    assert cache_files.unseal(SECRET, KEY, envelope, now_ms=1500, ttl_s=1) == completion


def test_an_envelope_with_one_bit_flipped_is_not_opened() -> None:
    """Wherever the bit is: the time is sealed as well, so that nobody makes an answer younger."""
    envelope = cache_files.seal(SECRET, KEY, ANSWER, at_ms=1000)
    opens = partial(cache_files.unseal, SECRET, KEY, now_ms=2**64, ttl_s=2**64)
    assert opens(envelope) == ANSWER
    for bit in range(8 * len(envelope)):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        assert opens(bytes(flipped)) is None


@pytest.mark.parametrize("envelope", [None, 7, "text", b"", b"OCC\x01", bytes(200)])
def test_what_is_no_envelope_is_not_opened(envelope: object) -> None:
    """A row may hold anything."""
    assert cache_files.unseal(SECRET, KEY, envelope, now_ms=0, ttl_s=1) is None


async def test_an_answer_is_found_again(folder: Path) -> None:
    """By this process, by the next one, and counted."""
    async with opened(folder) as cache:
        assert cache.get(KEY) is None
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) == ANSWER
        assert (cache.hits, cache.misses) == (1, 1)
    async with opened(folder) as cache:
        assert cache.get(KEY) == ANSWER
        assert cache.get(KEY[::-1]) is None

    assert mode_of(folder) == mode_of(folder.parent) == 0o700


@pytest.mark.parametrize(
    "changes",
    [
        {"finish_reason": "length"},
        {"finish_reason": "content_filter"},
        {"text": ""},
        {"text": " \n"},
        {"text": "", "reasoning": "hm"},
    ],
)
async def test_half_an_answer_is_not_kept(folder: Path, changes: dict[str, Any]) -> None:
    """Cut, filtered, empty."""
    half = dataclasses.replace(ANSWER, **changes)
    async with opened(folder) as cache:
        await cache.put(KEY, half)

        assert not is_whole(half)
        assert cache.get(KEY) is None
        assert (await cache.stats()).answers == 0


async def test_an_answer_of_tool_calls_alone_is_kept(folder: Path) -> None:
    """It has no text, and is whole."""
    call = ToolCall(id="1", name="look", arguments='{"at": "sky"}')
    answer = dataclasses.replace(ANSWER, text="", finish_reason="tool_calls", tool_calls=(call,))
    async with opened(folder) as cache:
        await cache.put(KEY, answer)

        assert cache.get(KEY) == answer


async def test_a_later_answer_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    """As when somebody asks anew on purpose."""
    later = dataclasses.replace(ANSWER, text="Mie scattering.")
    async with opened(folder) as cache:
        await cache.put(KEY, ANSWER)
        await cache.put(KEY, later)

        assert cache.get(KEY) == later
        assert (await cache.stats()).answers == 1


# Time.


class SteppingClock(FakeClock):
    """A clock whose wall time can be set."""

    step_s = 0.0

    def now(self) -> Any:
        from datetime import timedelta

        return super().now() + timedelta(seconds=self.step_s)


async def test_an_answer_is_used_until_its_time_is_over(folder: Path) -> None:
    """And not a moment longer."""
    clock = FakeClock()
    async with opened(folder, clock=clock, ttl_s=60) as cache:
        await cache.put(KEY, ANSWER)
        clock.advance(59.9)
        assert cache.get(KEY) == ANSWER
        clock.advance(0.2)
        assert cache.get(KEY) is None


async def test_a_shorter_time_holds_for_what_is_there_already(folder: Path) -> None:
    """Who reads decides how old an answer may be."""
    clock = FakeClock()
    async with opened(folder, clock=clock, ttl_s=3600) as cache:
        await cache.put(KEY, ANSWER)
    clock.advance(60)
    async with opened(folder, clock=clock, ttl_s=30) as cache:
        assert cache.get(KEY) is None


async def test_a_clock_that_is_set_back_brings_nothing_back(folder: Path) -> None:
    """Within a process the time goes on, whatever the wall clock says."""
    clock = SteppingClock()
    async with opened(folder, clock=clock, ttl_s=60) as cache:
        await cache.put(KEY, ANSWER)
        clock.advance(61)
        clock.step_s = -30
        assert cache.get(KEY) is None


async def test_a_clock_that_is_set_forward_ends_an_answers_time(folder: Path) -> None:
    """A machine that slept has a monotonic clock that slept as well."""
    clock = SteppingClock()
    async with opened(folder, clock=clock, ttl_s=60) as cache:
        await cache.put(KEY, ANSWER)
        clock.step_s = 61
        assert cache.get(KEY) is None


async def test_an_answer_from_the_future_is_not_used(folder: Path) -> None:
    """Nobody can say how old it is: the clock was set back since."""
    clock = SteppingClock()
    async with opened(folder, clock=clock) as cache:
        await cache.put(KEY, ANSWER)
    clock.step_s = -10
    async with opened(folder, clock=clock) as cache:
        assert cache.get(KEY) is None


# Room.


async def test_the_cache_keeps_to_its_size(folder: Path) -> None:
    """The oldest answers make room."""
    text = "x" * 100_000
    async with opened(folder, size_mb=1) as cache:
        for number in range(30):
            await cache.put(f"{number:064x}", dataclasses.replace(ANSWER, text=text))
        stats = await cache.stats()

        assert stats.size_bytes <= stats.limit_bytes + len(text)
        assert 1 <= stats.answers < 30
        assert cache.get(f"{29:064x}") is not None
        assert cache.get(f"{0:064x}") is None


async def test_an_answer_larger_than_the_cache_is_not_kept(folder: Path) -> None:
    """It would throw out everything else."""
    async with opened(folder, size_mb=1) as cache:
        await cache.put(KEY, ANSWER)
        await cache.put(KEY[::-1], dataclasses.replace(ANSWER, text="x" * 2**20))

        assert cache.get(KEY[::-1]) is None
        assert cache.get(KEY) == ANSWER


async def test_clearing_leaves_nothing(folder: Path) -> None:
    """And says how much there was."""
    await stored(folder, 250)
    async with opened(folder) as cache:
        assert await cache.clear() == 250
        assert cache.get(f"{0:064x}") is None
        assert (await cache.stats()).answers == 0


# What others may have done to the files.


async def test_another_secret_opens_nothing(folder: Path) -> None:
    """Nor does a row help that somebody sealed with a secret of their own."""
    async with opened(folder, secret=SECRET[::-1]) as cache:
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) == ANSWER
    async with opened(folder) as cache:
        assert cache.get(KEY) is None
        assert cache.fault == ""


async def test_a_row_copied_under_another_key_is_not_used(folder: Path) -> None:
    """An answer to one question is no answer to another one, nor one of another tenant."""
    mine, theirs = (cache_key(REQUEST, MODEL, tenant=tenant) for tenant in "ab")
    async with opened(folder) as cache:
        await cache.put(theirs, ANSWER)
    with closing(sqlite3.connect(folder / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET key = ? WHERE key = ?", (mine, theirs))
    async with opened(folder) as cache:
        assert cache.get(mine) is None


class Planted:
    """A pickle that would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "ran"))


async def test_planted_rows_are_misses(folder: Path, tmp_path: Path) -> None:
    """No pickle is read, no file outside is read or removed, whatever a row says."""
    ran, outside = tmp_path / "ran", tmp_path / "outside.val"
    bomb = pickle.dumps(Planted(ran))
    envelope = cache_files.seal(SECRET, KEY, ANSWER, at_ms=0)
    outside.write_bytes(envelope)
    (folder.parent / "inside.val").parent.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[Any, int, int, str | None, Any]] = [
        (bomb, 0, 1, None, envelope),  # a key that is a pickle
        (KEY, 0, 1, None, envelope),
        (KEY, 1, 4, None, bomb),  # a value that is one
        (KEY, 1, 4, "../../outside.val", None),
        (KEY, 1, 2, "../../outside.val", None),  # a file to be read
        (KEY, 1, 2, str(outside), None),
        (KEY, 1, 3, "../../outside.val", None),
        (KEY, 1, 1, "../../outside.val", envelope),
        (KEY, 1, 1, None, envelope.decode("latin-1")),
        (KEY, 1, 1, None, 7),
        (KEY, 1, 1, None, None),
        (KEY.encode(), 1, 1, None, envelope),
    ]
    for row in rows:
        await stored(folder)
        with closing(sqlite3.connect(folder / "cache.db")) as database, database:
            database.execute(
                "INSERT INTO Cache (key, raw, mode, filename, value, store_time)"
                " VALUES (?, ?, ?, ?, ?, 0)",
                row,
            )
        async with opened(folder) as cache:
            assert cache.get(KEY) is None, row
            await cache.put(KEY, ANSWER)
            assert cache.get(KEY) == ANSWER, row
            await cache.clear()
            assert cache.fault == ""

    assert outside.exists()
    assert not ran.exists()


def test_the_disk_refuses_what_is_not_bytes(tmp_path: Path) -> None:
    """Also where diskcache itself would ask for it."""
    disk = cache_files._BytesDisk(str(tmp_path))

    assert disk.put(KEY) == (KEY, True)
    assert disk.fetch(1, None, b"bytes", False) == b"bytes"
    for wrong in (b"bytes", 7, None, object()):
        with pytest.raises(TypeError):
            disk.put(wrong)
    for value in ("text", 7, None, object()):
        with pytest.raises(TypeError):
            disk.store(value, read=False)
    for mode, filename, value, read in [
        (4, None, pickle.dumps(1), False),
        (2, "a.val", None, False),
        (1, "a.val", b"", False),
        (1, None, "text", False),
        (1, None, b"", True),
    ]:
        with pytest.raises(OSError, match="a value"):
            disk.fetch(mode, filename, value, read)
    with pytest.raises(OSError, match="a key"):
        disk.get(pickle.dumps(1), 0)


async def test_settings_planted_in_the_database_do_no_more_than_cost_it(
    folder: Path, warned: Callable[[], list[str]]
) -> None:
    """diskcache sets attributes and pragmas by what it reads there."""
    for key, value in [
        ("disk_nonsense", 1),
        ("get", "not a method"),
        ("_sql", "no statement"),
        ("sqlite_mmap_size = 1; DROP TABLE Cache; --", 1),
        ("eviction_policy", "nonsense"),
        ("count", "many"),
    ]:
        await stored(folder)
        with closing(sqlite3.connect(folder / "cache.db")) as database, database:
            database.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (key, value))
        async with opened(folder) as cache:
            assert cache.fault == ""
            await cache.put(KEY, ANSWER)
            await cache.open()
            await cache.put(KEY, ANSWER)
            assert cache.get(KEY) == ANSWER, key
        shutil.rmtree(folder)


async def test_no_flipped_bit_is_served(folder: Path, tmp_path: Path, thorough: bool) -> None:
    """Every answer out of a damaged file is the right one, or none; nothing fails of it."""
    answers = await stored(folder, 40, "sky " * 50)
    whole = (folder / "cache.db").read_bytes()
    chance = random.Random(7)
    lost = 0
    for number in range(1000 if thorough else 100):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        copy = tmp_path / f"copy-{number}"
        copy.mkdir(mode=0o700)
        (copy / "cache.db").write_bytes(damaged)
        async with opened(copy) as cache:
            for key, answer in answers.items():
                found = cache.get(key)
                assert found in (answer, None)
                lost += found is None
            await cache.open()
            await cache.put(KEY, ANSWER)
            assert cache.get(KEY) in (ANSWER, None)
        shutil.rmtree(copy)

    assert lost, "no bit hit an answer: the test shows nothing"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: random.Random(1).randbytes(len(content)),
        lambda content: content[: len(content) // 2],
        lambda content: content[:100],
        lambda content: content[:5000] + bytes(len(content) - 5000),
        lambda content: bytes(len(content)),
    ],
    ids=["random", "half", "head", "zeroed after the head", "zero"],
)
async def test_a_damaged_database_is_moved_aside(
    folder: Path, damage: Callable[[bytes], bytes], warned: Callable[[], list[str]]
) -> None:
    """It begins anew, empty, with one warning."""
    answers = await stored(folder, 60)
    database = folder / "cache.db"
    broken = damage(database.read_bytes())
    database.write_bytes(broken)
    async with opened(folder) as cache:
        for _ in range(2):
            await cache.open()
            for key, answer in answers.items():
                assert cache.get(key) in (answer, None)
        await cache.put(KEY, ANSWER)
        await cache.open()
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) == ANSWER
        assert cache.fault == ""

        assert (folder / "damaged-cache.db").exists()
        assert len(warned()) == 1, warned()
        assert "is damaged" in warned()[0]
        await cache.clear()
        assert not (folder / "damaged-cache.db").exists()


async def test_of_two_who_find_damage_only_the_first_moves_the_database(folder: Path) -> None:
    """What the first began anew is not moved aside by the second."""
    await stored(folder, 60)
    async with opened(folder) as first, opened(folder) as second:
        for cache in (first, second):
            files = cache._files
            assert files is not None
            cache._fail(files, sqlite3.DatabaseError("database disk image is malformed"))
        await first.put(KEY, ANSWER)
        await second.open()

        assert second.get(KEY) == ANSWER


async def test_clearing_is_no_matter_of_how_damaged_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only comes to light while it is emptied is moved aside, and then removed."""
    await stored(folder, 5)
    empty, damaged = cache_files.Files.empty, ["malformed"]

    def fail_once(files: cache_files.Files) -> int:
        if damaged:
            raise sqlite3.DatabaseError(damaged.pop())
        return empty(files)

    monkeypatch.setattr(cache_files.Files, "empty", fail_once)
    async with opened(folder) as cache:
        assert await cache.clear() == 0
        assert (await cache.stats()).answers == 0
    damaged += ["malformed"] * 2
    async with opened(folder) as cache:
        with pytest.raises(CacheError, match="malformed"):
            await cache.clear()


def test_a_get_that_fails_needs_no_running_loop(folder: Path) -> None:
    """It is an ordinary function, and never raises."""

    async def begin() -> CompletionCache:
        cache = CompletionCache(folder, CacheConfig(), SECRET, clock=FakeClock())
        await cache.put(KEY, ANSWER)
        return cache

    with asyncio.Runner() as runner:
        cache = runner.run(begin())
        assert cache.get(KEY) == ANSWER
        files = cache._files
        assert files is not None
        files.close_reader()
        assert cache.get(KEY) is None
        runner.run(cache.aclose())


# Faults of the world around it.


async def test_a_cache_that_is_deleted_under_way_is_off_and_comes_back(
    folder: Path, warned: Callable[[], list[str]]
) -> None:
    """One warning; nothing is written to a file that nobody can find."""
    clock = FakeClock()
    async with opened(folder, clock=clock) as cache:
        await cache.put(KEY, ANSWER)
        shutil.rmtree(folder)
        for _ in range(3):
            await cache.put(KEY, ANSWER)
            assert cache.get(KEY) is None
        assert "removed" in cache.fault
        assert not await asyncio.to_thread(folder.exists)
        assert len(warned()) == 1

        clock.advance(PAUSE_S + 1)
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) == ANSWER
        assert cache.fault == ""

        shutil.rmtree(folder)
        await cache.put(KEY, ANSWER)
        assert "removed" in cache.fault
        assert len(warned()) == 1


async def test_a_folder_that_cannot_be_made_turns_the_cache_off(
    tmp_path: Path, warned: Callable[[], list[str]]
) -> None:
    """A file is in its place."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        async with opened(folder) as cache:
            await cache.put(KEY, ANSWER)
            assert cache.get(KEY) is None
            assert str(tmp_path / "file") in cache.fault
            with pytest.raises(CacheError, match="cannot be used"):
                await cache.stats()

    assert len(warned()) == 2


async def test_a_folder_that_cannot_be_written_turns_the_cache_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    """As on a medium that is mounted read-only."""
    await stored(folder)
    connect = sqlite3.connect

    def read_only(path: Path, **options: Any) -> sqlite3.Connection:
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    async with opened(folder) as cache:
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) is None
        assert "readonly" in cache.fault

    assert len(warned()) == 1


async def test_a_full_disk_turns_the_cache_off(
    folder: Path, warned: Callable[[], list[str]]
) -> None:
    """SQLite says so when it writes, and what was there stays right."""
    clock = FakeClock()
    async with opened(folder, clock=clock) as cache:
        await cache.put(KEY, ANSWER)
        files = cache._files
        assert files is not None
        await cache._finish(lambda: files.store._sql("PRAGMA max_page_count = 9").fetchall(), 5)
        for number in range(50):
            await cache.put(f"{number:064x}", dataclasses.replace(ANSWER, text="x" * 9000))
        assert "full" in cache.fault
        assert len(warned()) == 1

        clock.advance(PAUSE_S + 1)
        await cache.open()
        assert cache.get(KEY) == ANSWER


async def test_a_locked_database_costs_its_answers_and_no_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    """Reading goes on beside a writer; writing is given up, and tried again after a while."""
    monkeypatch.setattr(cache_files, "LOCK_WRITE_S", 0.05)
    clock = FakeClock()
    await stored(folder)
    async with opened(folder, clock=clock) as cache:
        with closing(sqlite3.connect(folder / "cache.db", isolation_level=None)) as backup:
            backup.execute("BEGIN EXCLUSIVE")
            assert cache.get(f"{0:064x}") is not None
            await cache.put(KEY, ANSWER)
            assert "locked" in cache.fault
            clock.advance(PAUSE_S + 1)
            await cache.put(KEY, ANSWER)  # it cannot even be opened
            assert "locked" in cache.fault
            assert cache.get(f"{0:064x}") is None
            backup.execute("ROLLBACK")
        clock.advance(PAUSE_S + 1)
        await cache.put(KEY, ANSWER)

        assert cache.get(KEY) == ANSWER
        assert len(warned()) == 2  # for writing and for opening


async def test_a_cache_that_takes_long_to_open_is_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls go on; it is used once it is open."""
    may_open = threading.Event()
    open_files = cache_files.open_files

    def slow(*args: Any, **options: Any) -> Any:
        may_open.wait(10)
        return open_files(*args, **options)

    monkeypatch.setattr(cache_module, "open_files", slow)
    clock = FakeClock()
    cache = CompletionCache(folder, CacheConfig(), SECRET, clock=clock)
    opening = asyncio.create_task(cache.open())
    await asyncio.sleep(0)
    clock.advance(cache_module.OPEN_S + 0.1)
    await opening
    assert "not open" in cache.fault
    await cache.open()  # returns at once
    may_open.set()
    assert cache._opening is not None
    await cache._opening
    await cache.put(KEY, ANSWER)

    assert cache.get(KEY) == ANSWER
    assert cache.fault == ""
    await cache.aclose()


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A folder that everybody can look into."""
    path = tmp_path / "public"
    path.mkdir()
    path.chmod(0o755)
    return path


async def test_a_folder_open_to_others_is_not_used(public: Path) -> None:
    """They could read the answers, and delete them."""
    async with opened(public) as cache:
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) is None
        assert "755" in cache.fault


async def test_many_at_once_open_it_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of their answers are kept."""
    opens = []
    open_files = cache_files.open_files
    monkeypatch.setattr(
        cache_module, "open_files", lambda *a, **o: opens.append(1) or open_files(*a, **o)
    )
    cache = CompletionCache(folder, CacheConfig(), SECRET, clock=FakeClock())
    keys = [f"{number:064x}" for number in range(100)]
    await asyncio.gather(*(cache.put(key, ANSWER) for key in keys))

    assert all(cache.get(key) == ANSWER for key in keys)
    assert len(opens) == 1
    await cache.aclose()


async def test_answers_that_come_at_once_are_written_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one the disk would fall behind a busy process, and the cache be off for that."""
    together: list[int] = []
    write = cache_files.Files.write

    def counted(files: cache_files.Files, entries: Sequence[Any], **options: Any) -> None:
        together.append(len(entries))
        write(files, entries, **options)

    monkeypatch.setattr(cache_files.Files, "write", counted)
    keys = [f"{number:064x}" for number in range(1000)]
    async with opened(folder) as cache:
        await asyncio.gather(*(cache.put(key, ANSWER) for key in keys))

        assert all(cache.get(key) == ANSWER for key in keys)
    assert sum(together) == len(keys)
    assert len(together) < 50
    assert max(together) == cache_module.TOGETHER


async def test_what_the_disk_cannot_keep_up_with_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer waits for it, no memory fills up, and the cache stays on."""
    may_write = threading.Event()
    write = cache_files.Files.write

    def slow(files: cache_files.Files, entries: Sequence[Any], **options: Any) -> None:
        may_write.wait(10)
        write(files, entries, **options)

    monkeypatch.setattr(cache_files.Files, "write", slow)
    async with opened(folder) as cache:
        keeping = [cache.keep(f"{number:064x}", ANSWER) for number in range(5000)]
        waiting = cache_module.MOST_WAITING + 1  # one is being written
        assert [one.done() for one in keeping] == [number >= waiting for number in range(5000)]

        may_write.set()
        await asyncio.wait(keeping)
        assert cache.get(f"{waiting - 1:064x}") == ANSWER
        assert cache.get(f"{waiting:064x}") is None
        assert cache.fault == ""


async def test_a_disk_that_hangs_turns_the_cache_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warned: Callable[[], list[str]]
) -> None:
    """Whoever comes next notices; those who wait are let go."""
    may_write = threading.Event()
    monkeypatch.setattr(cache_files.Files, "write", lambda *_, **__: may_write.wait(10) and None)
    clock = FakeClock()
    async with opened(folder, clock=clock) as cache:
        first, second = cache.keep(KEY, ANSWER), cache.keep(KEY[::-1], ANSWER)
        clock.advance(cache_module.OPEN_S + 0.1)
        third = cache.keep(KEY, ANSWER)

        assert "takes more than 2 s" in cache.fault
        assert (first.done(), second.done(), third.done()) == (False, True, True)
        may_write.set()
        await first
    assert len(warned()) == 1


async def test_a_closed_cache_does_nothing(folder: Path) -> None:
    """It may be closed twice, and used after: nothing is opened again."""
    async with opened(folder) as cache:
        await cache.put(KEY, ANSWER)
    await cache.aclose()
    await cache.open()
    await cache.put(KEY, ANSWER)

    assert cache.get(KEY) is None
    with pytest.raises(CacheError, match="closed"):
        await cache.clear()


async def test_a_cancelled_put_leaves_nothing_behind(folder: Path) -> None:
    """At any of its awaits; the cache goes on."""
    for turns in range(6):
        async with opened(folder) as cache:
            writing = asyncio.create_task(cache.put(KEY, ANSWER))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await cache.put(KEY, ANSWER)
            assert cache.get(KEY) == ANSWER


# The secret.


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    """Of many who make it at once all get the same one."""
    path = tmp_path / "state" / "secret"
    with ThreadPoolExecutor(16) as threads:
        made = set(threads.map(secret_key, [path] * 64))

    assert made == {path.read_bytes()}
    assert len(path.read_bytes()) == 32
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert [left.name for left in path.parent.iterdir()] == ["secret"]


async def test_a_secret_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    """It would seal, and be guessed."""
    path = tmp_path / "secret"
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="no secret of 32 bytes"):
        secret_key(path)
    async with opened(folder, secret=path) as cache:
        assert "no secret" in cache.fault


async def test_the_secret_is_never_kept_with_what_it_seals(folder: Path) -> None:
    """Who can write the cache could else seal what they like."""
    async with opened(folder, secret=folder / "secret") as cache:
        assert "must not lie in its folder" in cache.fault
    async with opened(folder, secret=folder.parent / "secret") as cache:
        await cache.put(KEY, ANSWER)
        assert cache.get(KEY) == ANSWER


# Processes.

PUT_FOREVER = """
import asyncio, itertools, sys
from pathlib import Path
from adapters import Completion
from orchestrator.cache import CompletionCache
from orchestrator.clock import SystemClock
from orchestrator.config import CacheConfig

async def main(folder, secret, start):
    cache = CompletionCache(Path(folder), CacheConfig(), secret.encode(), clock=SystemClock())
    for number in itertools.count(start):
        answer = Completion(text=f"{number} " * 500, finish_reason="stop", model="m")
        await cache.put(f"{number:064x}", answer)
        print(number, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_a_process_killed_while_it_writes_breaks_nothing(folder: Path, thorough: bool) -> None:
    """What it had finished is there, and right."""
    chance = random.Random(3)
    finished: list[int] = []
    for life in range(10 if thorough else 2):
        start = str(life * 10**6)
        command = [sys.executable, "-c", PUT_FOREVER, str(folder), SECRET.decode(), start]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            written = [process.stdout.readline() for _ in range(chance.randrange(1, 80))]
            process.send_signal(signal.SIGKILL)
        finished += map(int, written)

    asyncio.run(find_all(folder, finished))


async def find_all(folder: Path, numbers: list[int]) -> None:
    """Look for what `PUT_FOREVER` wrote, by the clock that it wrote by."""
    cache = CompletionCache(folder, CacheConfig(), SECRET, clock=SystemClock())
    await cache.open()
    for number in numbers:
        found = cache.get(f"{number:064x}")
        assert found is not None
        assert found.text == f"{number} " * 500
    assert cache.fault == ""
    await cache.aclose()


FORK = """
import asyncio, os, sys, warnings
from pathlib import Path
from adapters import Completion
from orchestrator.cache import CompletionCache
from orchestrator.clock import SystemClock
from orchestrator.config import CacheConfig

warnings.simplefilter("ignore", DeprecationWarning)  # to fork beside threads is what it is about
answer = Completion(text="hi", finish_reason="stop", model="m")
cache = CompletionCache(Path(sys.argv[1]), CacheConfig(), b"0" * 32, clock=SystemClock())

async def use(mine, theirs):
    handed_down = cache._files
    assert cache.get(theirs) is None, "before it is opened here"
    await cache.put(mine, answer)
    assert cache._files is not handed_down
    assert cache.get(mine) == answer and cache.get(theirs) == answer
    await cache.aclose()

async def main():
    await cache.put("a" * 64, answer)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
if child := os.fork():
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert cache.get("a" * 64) == answer and cache.get("b" * 64) == answer
    loop.run_until_complete(cache.put("c" * 64, answer))
    assert cache.fault == "", cache.fault
    loop.run_until_complete(cache.aclose())
    loop.close()
    print("both are well")
else:
    asyncio.events._set_running_loop(None)
    asyncio.run(use("b" * 64, "a" * 64))
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_opens_files_of_its_own(folder: Path) -> None:
    """SQLite's connections do not survive a fork; both processes go on."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stdout == "both are well\n", done.stderr


HIT = """
import asyncio, sys
from pathlib import Path
from adapters import CompletionRequest, ModelConfig
from orchestrator.cache import CompletionCache, cache_key, replay
from orchestrator.clock import FakeClock
from orchestrator.config import CacheConfig

async def main():
    folder, secret = Path(sys.argv[1]), sys.argv[2].encode()
    cache = CompletionCache(folder, CacheConfig(), secret, clock=FakeClock())
    await cache.open()
    request = CompletionRequest(messages=[{"role": "user", "content": "hi"}])
    cache_key(request, ModelConfig(provider="openai", model="gpt-5"), tenant="")
    print("".join(chunk.text for chunk in replay(cache.get("0" * 64))))
    print([name for name in ("litellm", "openai", "aiohttp", "httpx") if name in sys.modules])
    await cache.aclose()

asyncio.run(main())
"""


def test_a_hit_imports_no_litellm(folder: Path) -> None:
    """Its import takes seconds, which a hit is there to save."""
    asyncio.run(stored(folder))
    done = subprocess.run(
        [sys.executable, "-c", HIT, str(folder), SECRET.decode()],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [f"0: {ANSWER.text}", "[]"]


# A stored answer as a stream.


@given(completion=COMPLETIONS)
def test_a_replayed_answer_folds_to_the_answer(completion: Completion) -> None:
    """Byte for byte, whatever is in it."""
    fold = CompletionFold()
    for chunk in replay(completion):
        fold.add(chunk)

    assert fold.completion() == completion


def test_a_long_answer_is_replayed_in_pieces() -> None:
    """A stream still streams; only its last chunk says that it is over."""
    chunks = list(replay(dataclasses.replace(ANSWER, text="x" * (3 * PIECE + 1), reasoning="r")))

    assert [len(chunk.text) for chunk in chunks] == [0, PIECE, PIECE, PIECE, 1, 0]
    assert [chunk.finish_reason for chunk in chunks] == [None] * 5 + ["stop"]
    assert chunks[-1].usage == USAGE


# Equal calls at the same time.


class Provider:
    """Counts the calls it gets, and answers when it is told to."""

    def __init__(self, *, failing: int = 0) -> None:
        self.calls = 0
        self.under_way = 0
        self.most = 0
        self.failing = failing
        self.gate = asyncio.Event()

    async def __call__(self) -> Completion:
        self.calls += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.calls <= self.failing:
                raise ConnectionError(self.calls)
            return ANSWER
        finally:
            self.under_way -= 1


async def ask(flights: SingleFlight, provider: Provider, key: str = KEY) -> Completion:
    """A call as an engine makes it."""
    async with flights.join(key) as flight:
        completion = await flight.result()
        if completion is None:
            completion = await provider()
            flight.give(completion)
        return completion


async def turns(count: int = 10) -> None:
    """Let everybody else run for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_thousand_equal_calls_are_one() -> None:
    """Everybody gets its answer."""
    flights, provider = SingleFlight(), Provider()
    provider.gate.set()
    answers = await asyncio.gather(*(ask(flights, provider) for _ in range(1000)))

    assert provider.calls == 1
    assert answers == [ANSWER] * 1000
    assert not flights._flights


async def test_different_calls_do_not_wait_for_each_other() -> None:
    """Each has a leader of its own."""
    flights, provider = SingleFlight(), Provider()
    asked = [asyncio.create_task(ask(flights, provider, f"{number % 5}")) for number in range(50)]
    await turns()

    assert provider.under_way == 5
    provider.gate.set()
    assert await asyncio.gather(*asked) == [ANSWER] * 50


async def test_when_the_leader_is_cancelled_another_takes_over() -> None:
    """Those who wait do not notice."""
    flights, provider = SingleFlight(), Provider()
    asked = [asyncio.create_task(ask(flights, provider)) for _ in range(10)]
    await turns()
    asked[0].cancel()
    await turns()
    assert provider.calls == 2
    provider.gate.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [ANSWER] * 9
    assert provider.calls == 2
    assert not flights._flights


async def test_an_error_is_the_leaders_alone() -> None:
    """The others try one after another, until one has an answer for those who are left."""
    flights, provider = SingleFlight(), Provider(failing=3)
    provider.gate.set()
    outcomes = await asyncio.gather(
        *(ask(flights, provider) for _ in range(10)), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes[:3]] == [ConnectionError] * 3
    assert outcomes[3:] == [ANSWER] * 7
    assert (provider.calls, provider.most) == (4, 1)


async def test_who_is_to_lead_and_is_cancelled_hands_the_lead_on() -> None:
    """In the very moment between being told and running."""
    flights, provider = SingleFlight(), Provider()
    asked = [asyncio.create_task(ask(flights, provider)) for _ in range(4)]
    await turns()
    asked[0].cancel()
    asked[1].cancel()  # the next one in line, in the same turn
    await asyncio.sleep(0)
    asked[2].cancel()
    provider.gate.set()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert outcomes[3] == ANSWER
    assert not flights._flights


async def test_who_comes_after_the_answer_begins_anew() -> None:
    """A flight that has landed takes nobody along; that is what the cache is for."""
    flights, provider = SingleFlight(), Provider()
    provider.gate.set()
    await ask(flights, provider)
    await ask(flights, provider)

    assert provider.calls == 2
    async with flights.join(KEY) as landed:
        landed.give(ANSWER)
        async with flights.join(KEY) as later:
            assert later.leads


async def test_only_the_leader_gives_an_answer() -> None:
    """Whoever else does has a mistake in it."""
    flights = SingleFlight()
    async with flights.join(KEY) as first, flights.join(KEY) as second:
        assert (first.leads, second.leads) == (True, False)
        with pytest.raises(AssertionError):
            second.give(ANSWER)
        first.give(ANSWER)
        assert await second.result() == ANSWER


async def test_flights_survive_any_cancelling(thorough: bool) -> None:
    """Whoever is not cancelled gets an answer, never two calls at once, nothing is left."""
    for seed in range(2000 if thorough else 200):
        chance = random.Random(seed)
        flights, provider = SingleFlight(), Provider(failing=chance.choice([0, 0, 2]))
        asked = []
        for _ in range(12):
            asked.append(asyncio.create_task(ask(flights, provider)))
            await turns(chance.randrange(3))
            if chance.random() < 0.5:
                chance.choice(asked).cancel()
        provider.gate.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)

        kinds = (Completion, asyncio.CancelledError, ConnectionError)
        assert all(isinstance(outcome, kinds) for outcome in outcomes)
        assert sum(isinstance(outcome, ConnectionError) for outcome in outcomes) <= provider.failing
        assert provider.most <= 1
        assert not flights._flights
