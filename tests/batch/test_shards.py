"""Shards are answered by whoever calls, each row once, and come to the output of one batch."""

import pickle
import re
import runpy
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import orchestrator
from orchestrator import RequestConfig
from orchestrator import batch as public
from orchestrator.batch import shards
from orchestrator.batch.asking import Question
from orchestrator.batch.job import Order
from orchestrator.batch.outcome import Failure, Outcome
from orchestrator.batch.parts import Heading, Part, PartsFolder, part_path, read_part
from orchestrator.batch.rows import Row
from orchestrator.batch.shards import collect, divide, order_of, portable, run_shard
from orchestrator.batch.sources import InputError, source_of
from orchestrator.errors import BatchError, BatchInUse
from orchestrator.simulator import Simulator
from tests.batching import answers, asking, numbered, order, write_rows
from tests.faces import configured, simulated_elsewhere

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Simulator]:
    with simulated_elsewhere() as running:
        yield running


@pytest.fixture
def given(elsewhere: Simulator, tmp_path: Path) -> Order:
    """Twelve rows, of which one cannot be read."""
    rows = write_rows(tmp_path / "rows.jsonl", [*numbered(6), "no json\n", *numbered(12)[7:]])
    made = order(configured(elsewhere), rows, tmp_path / "out.jsonl")
    return replace(made, file=source_of(rows))


def answer_all(given: Order, count: int) -> None:
    for start, end in divide(given, count).ranges:
        assert run_shard(given, start, end).is_complete


def positions(output: Path) -> list[int]:
    records = [one for path in PartsFolder(output).paths() for one in read_part(path)]
    return sorted(one.outcome.position for one in records)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_shards_come_to_the_output_of_one_batch(
    elsewhere: Simulator, given: Order, count: int
) -> None:
    """However many there are; what is collected asks nobody."""
    before = elsewhere.requests.total
    answer_all(given, count)
    asked = elsewhere.requests.total

    result = collect(given)

    assert result.is_complete
    assert (result.tally.found, result.tally.answered) == (12, 0)
    assert asked - before == elsewhere.requests.total - before == 11
    assert [one["position"] for one in answers(given.output)] == list(range(12))
    assert [one["failure"] for one in answers(given.output)].count("InvalidRow") == 1
    assert positions(given.output) == list(range(12))


def test_a_shard_again_asks_nothing(elsewhere: Simulator, given: Order) -> None:
    """What is in its parts counts, and what a whole batch has answered before."""
    start, end = divide(given, 3).ranges[1]
    first = run_shard(given, start, end)
    before = elsewhere.requests.total

    again = run_shard(given, start, end)

    assert elsewhere.requests.total == before
    assert again.tally.found == again.tally.read == first.tally.done > 0
    assert collect(given).tally.found == first.tally.done
    answer_all(given, 3)
    assert positions(given.output) == list(range(12))


def test_shards_stay_as_they_were_divided(given: Order) -> None:
    """Whoever asks later, and for how many; another state of the input is divided anew."""
    first = divide(given, 3)
    assert given.file is not None
    assert given.file.path is not None

    assert divide(given, 7) == first
    write_rows(given.file.path, numbered(20))
    anew = divide(replace(given, source="another"), 7)

    assert (len(anew.ranges), anew.index.rows, anew.batch) == (7, 20, first.batch)


def test_of_several_that_divide_at_once_one_decides(
    given: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others take over its shards."""
    theirs = divide(given, 3)
    seen = iter([None])
    read = shards._read
    monkeypatch.setattr(shards, "_read", lambda path: next(seen, read(path)))

    assert divide(given, 5) == theirs


def test_a_shard_of_nothing_that_was_divided_is_refused(given: Order) -> None:
    """Most likely the folder is not shared."""
    with pytest.raises(BatchError, match=r"at the same path of a folder that they share"):
        run_shard(given, 0, 10)
    with pytest.raises(InputError, match=r"Only a file can be shared out"):
        divide(replace(given, file=None), 2)


def test_a_damaged_note_of_the_shards_is_written_anew(given: Order) -> None:
    """As if there were none."""
    first = divide(given, 3)
    PartsFolder(given.output).shards.write_text("{}")

    with pytest.raises(BatchError, match="does not say how"):
        run_shard(given, *first.ranges[0])


def test_a_shard_that_somebody_is_at_is_waited_for(
    given: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever, and not once nothing is wanted of it any more."""
    start, end = divide(given, 3).ranges[0]
    monkeypatch.setattr(shards, "TRIES", 2)
    monkeypatch.setattr(shards, "AGAIN_S", 0.0)
    told = iter([False])

    with PartsFolder(given.output).lock(f"shard-{start}-{end}.lock"):
        with pytest.raises(BatchInUse, match=r"if its machine is gone, remove .*\.lock"):
            run_shard(given, start, end)
        stopped = run_shard(given, start, end, is_over=lambda: next(told, True))

    assert (stopped.is_complete, stopped.tally.done) == (False, 0)


def test_a_shard_that_is_not_wanted_any_more_asks_nothing_more(
    elsewhere: Simulator, given: Order
) -> None:
    """What is under way ends first, and is kept."""
    before, told, is_told = elsewhere.requests.total, iter([False]), threading.Event()

    def is_over() -> bool:
        if next(told, None) is None:
            is_told.set()
        return is_told.is_set()

    def asking_once_told(row: Row) -> Question | Failure:
        assert row.position == 0 or is_told.wait(60)
        return asking(row, model="alpha")

    slowly = replace(given, concurrency=1, ask=asking_once_told)
    result = run_shard(slowly, *divide(given, 1).ranges[0], is_over=is_over)

    assert (result.is_complete, result.why) == (False, "interrupted")
    assert elsewhere.requests.total - before == result.tally.done < 12
    assert collect(given).is_complete
    assert elsewhere.requests.total - before == 11
    assert positions(given.output) == list(range(12))


def test_parts_that_begin_at_once_have_numbers_of_their_own(tmp_path: Path) -> None:
    """The second one takes the next that is free."""
    heading = Heading(batch="b", config="c", source="s", start=0, end=9)
    path = part_path(tmp_path, 1)
    made = [Part(path, heading, gives_way=True) for _ in range(3)]
    outcome = Outcome(position=0, line=1, digest="", status="complete")

    places = [part.append(outcome) for part in made]

    for part in made:
        part.close()
    assert [place.part for place in places] == [part.number for part in made] == [1, 2, 3]
    with pytest.raises(BatchError, match="exists"):
        Part(path, heading).append(outcome)


def test_a_shard_reads_the_parts_that_may_hold_its_rows() -> None:
    """Those of other ranges of the same state of the input do not; any others may."""
    ours = Heading(batch="b", config="c", source="s", start=10, end=20)

    assert ours.may_overlap(replace(ours, start=0, end=None))
    assert ours.may_overlap(replace(ours, start=19, end=30))
    assert not ours.may_overlap(replace(ours, start=20, end=30))
    assert not ours.may_overlap(replace(ours, start=0, end=10))
    assert ours.may_overlap(replace(ours, start=20, end=30, source="before"))


def test_an_order_can_be_sent_to_another_machine(elsewhere: Simulator, tmp_path: Path) -> None:
    """Rows and their output are opened where they are wanted."""
    rows = tmp_path / "rows.csv"
    rows.write_text('word\n"moon\nlight"\nsun\n')
    made = order_of(
        rows,
        tmp_path / "out.jsonl",
        config=configured(elsewhere),
        request=RequestConfig(model="alpha"),
        template="Define {{ word }}.",
        concurrency=3,
    )

    sent: Order = pickle.loads(pickle.dumps(portable(made)))
    answer_all(sent, 2)

    assert sent.concurrency == 3
    assert (list(sent.rows()), list(sent.write(iter(()), rows) or [])) == ([], [])  # type: ignore[call-overload]
    assert collect(made).tally.found == 2
    assert [one["position"] for one in answers(made.output)] == [0, 1]


def test_the_example_of_the_readme_runs(
    elsewhere: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call a shard, as an array of jobs makes them, and one that collects."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (example,) = (block for block in blocks if "run_shard" in block)
    (tmp_path / "shard.py").write_text(example.replace("100", "2"))
    write_rows(tmp_path / "rows.jsonl", numbered(4))
    monkeypatch.chdir(tmp_path)
    config = configured(elsewhere)
    config = config.model_copy(update={"routes": {"fast": config.routes["way"]}})
    monkeypatch.setattr(orchestrator, "load_config", lambda _: config)

    for word in ("1", "0", "collect"):
        monkeypatch.setattr(sys, "argv", ["shard.py", word])
        runpy.run_path("shard.py", run_name="__main__")

    assert [one["position"] for one in answers(tmp_path / "answers.jsonl")] == list(range(4))


def test_the_package_names_what_is_public() -> None:
    """And nothing else."""
    assert all(callable(getattr(public, name)) for name in public.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = public.nothing
