"""Rows are dealt with so many at a time, read no further ahead, in memory that does not grow."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.batch.outcome import Outcome
from orchestrator.batch.parts import Heading, Index, Part, Place
from orchestrator.batch.rows import Row
from orchestrator.batch.work import Kept, Stop, Work
from orchestrator.clock import SystemClock

HEADING = Heading(batch="b", config="c", source="s")


class Keeping:
    """Answers every row at once, or when it is let go."""

    def __init__(self, part: Part, *, waits: bool = False) -> None:
        self.part = part
        self.go = asyncio.Event()
        self.asked: list[int] = []
        self.most = 0
        self.alone: dict[str, str] = {}
        self._now = 0
        if not waits:
            self.go.set()

    async def __call__(self, row: Row) -> Kept:
        self._now += 1
        self.most = max(self.most, self._now)
        if not self.go.is_set():
            self.asked.append(row.position)
        await self.go.wait()
        self._now -= 1
        outcome = Outcome(
            position=row.position, line=row.line, digest=row.digest, status="complete", text="x"
        )
        return Kept(self.part.append(outcome), "complete", 1)

    def breakers(self) -> dict[str, str]:
        return self.alone

    def calls_in_flight(self) -> dict[str, int]:
        return {"gpt": self._now} if self._now else {}


class Reading:
    """Rows, and how many of them were read."""

    def __init__(self, count: int, *, different: int | None = None) -> None:
        self.read = 0
        self._count = count
        self._different = different or count

    def __iter__(self) -> Iterator[Row]:
        for position in range(self._count):
            self.read += 1
            fields = {"prompt": str(position % self._different)}
            yield Row(position=position, line=position + 1, fields=fields)


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Part]:
    made = Part(tmp_path / "part-00001.jsonl", HEADING)
    yield made
    made.close()


def working(keep: Keeping, *, concurrency: int = 4, stop: Stop | None = None) -> Work:
    @asynccontextmanager
    async def begin() -> AsyncIterator[Keeping]:
        yield keep

    return Work(
        begin(),
        index=Index(),
        part=keep.part,
        concurrency=concurrency,
        stop=stop or Stop(),
        clock=SystemClock(),
    )


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_slow", [False, True])
async def test_no_more_rows_are_under_way_or_read_than_are_wanted(
    part: Part, *, is_slow: bool
) -> None:
    """Whoever reads waits for whoever answers."""
    keep, rows = Keeping(part, waits=True), Reading(1000)
    work = working(keep, concurrency=5)

    running = asyncio.create_task(work.run(iter(rows), is_slow=is_slow))
    while len(keep.asked) < 5:  # noqa: ASYNC110 - nobody tells when
        await asyncio.sleep(0)
    await turns()

    assert keep.asked == [0, 1, 2, 3, 4]
    assert rows.read <= 6 + 64 * is_slow + is_slow
    assert work.tally.in_flight == 5
    keep.go.set()
    await running
    assert work.is_complete
    assert (work.tally.answered, work.tally.total, keep.most) == (1000, 1000, 5)


async def test_whoever_looks_sees_the_calls_of_rows_that_take_long(part: Part) -> None:
    """No row has to end for it: nothing ends while a model is left alone."""
    keep = Keeping(part, waits=True)
    work = working(keep, concurrency=3)

    running = asyncio.create_task(work.run(iter(Reading(5))))
    while len(keep.asked) < 3:  # noqa: ASYNC110 - nobody tells when
        await asyncio.sleep(0)
    keep.alone = {"claude": "open"}
    seen = work.look()

    assert (seen.calls_in_flight, seen.breakers) == ({"gpt": 3}, {"claude": "open"})
    keep.go.set()
    await running
    ended = work.look()
    assert (ended.calls_in_flight, ended.breakers) == ({}, {"claude": "open"})


async def test_rows_that_wait_for_an_equal_one_are_limited_too(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that asks the same a million times is not read into memory for it."""
    monkeypatch.setattr("orchestrator.batch.work.WAITING", 10)
    keep, rows = Keeping(part, waits=True), Reading(1000, different=2)
    work = working(keep)

    running = asyncio.create_task(work.run(iter(rows)))
    while len(keep.asked) < 2:  # noqa: ASYNC110 - nobody tells when
        await asyncio.sleep(0)
    await turns()

    assert rows.read < 30
    keep.go.set()
    await running
    assert (work.tally.answered, work.tally.repeated, work.tally.spent_nanousd) == (1000, 998, 2)


async def test_a_reader_that_fails_ends_the_batch_once_all_is_answered(part: Part) -> None:
    """What was read before is kept; the error is the reader's own."""

    def rows() -> Iterator[Row]:
        yield from Reading(3)
        raise OSError("the disk is gone")

    keep, stop = Keeping(part), Stop()
    work = working(keep, stop=stop)

    with pytest.raises(OSError, match="the disk is gone"):
        await work.run(rows())

    assert (work.tally.answered, work.is_complete, stop.why) == (3, False, "failure")


async def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """But for some bytes a row, and as many equal ones as are remembered."""
    peaks = []
    for count in (500, 2500):
        part = Part(tmp_path / f"part-{count:05d}.jsonl", HEADING)
        work = working(Keeping(part), concurrency=64)
        work._remember = lambda digest, place: None  # type: ignore[method-assign]
        tracemalloc.start()
        await work.run(iter(Reading(count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        part.close()

    assert peaks[1] - peaks[0] < 40 * 2000


def test_so_many_rows_are_remembered_and_no_more(part: Part) -> None:
    """The oldest is forgotten first."""

    async def remember() -> list[str]:
        work = working(Keeping(part))
        for number in range(10_000):
            work._remember(str(number), Place(1, number))
        return list(work._known)

    known = asyncio.run(remember())

    assert len(known) == 8192
    assert known[-1] == "9999"
