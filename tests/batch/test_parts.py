"""What rows have come to outlives crashes, full disks and damage."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.batch import parts
from orchestrator.batch.outcome import Failure, ModelUse, Outcome
from orchestrator.batch.parts import Heading, Index, Part, PartsFolder, Place, read_part
from orchestrator.errors import BatchError, BatchInUse

HEADING = Heading(batch="b1", config="c1", source="rows.jsonl|1|2")
DIGEST = "0123456789abcdef0123456789abcdef"


def outcome(position: int, text: str = "An answer.", **about: object) -> Outcome:
    given = {
        "position": position,
        "line": position + 1,
        "digest": DIGEST,
        "status": "complete",
        "text": text,
        "use": (ModelUse(deployment="alpha", calls=1, cost_nanousd=5),),
    }
    return Outcome(**{**given, **about})  # type: ignore[arg-type]


FAILED = {"status": "failed", "failure": Failure(kind="ProviderTimeout", message="slow")}


@pytest.fixture
def folder(tmp_path: Path) -> PartsFolder:
    made = PartsFolder(tmp_path / "out.jsonl")
    made.path.mkdir()
    return made


def written(folder: PartsFolder, *outcomes: Outcome, heading: Heading = HEADING) -> Path:
    part = Part(folder.part(folder.next_number()), heading)
    for one in outcomes:
        part.append(one)
    part.close()
    return part.path


def merged(folder: PartsFolder, config: str = "c1") -> list[Outcome]:
    index = folder.scan(config).index
    return list(folder.read(place for _, place in index.places()))


texts = st.text(max_size=50)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(text=texts, parsed=json_values, kind=texts)
def test_what_is_written_is_read_back(text: str, parsed: object, kind: str) -> None:
    """Whatever a model says, and however large its numbers are."""
    one = outcome(
        3,
        text,
        parsed=parsed,
        tool_calls=({"id": "1", "function": {"name": text}},),
        failure=Failure(kind=kind, message=text, status=400),
        receipt={"run_id": text},
        causes=(text, kind),
    )

    assert parts._fact(parts._line("row", one)) == one


def test_a_place_leads_to_the_outcome_that_was_written_there(folder: PartsFolder) -> None:
    """While the part is still written to, as well as from another part."""
    first, second = (Part(folder.part(number), HEADING) for number in (1, 2))

    places = [first.append(outcome(0)), first.append(outcome(1, "else")), second.append(outcome(2))]

    assert [second.read(place).position for place in places] == [0, 1, 2]
    first.close()
    second.close()
    assert [record.place for record in read_part(first.path)] == places[:2]


def test_half_a_character_becomes_a_question_mark(folder: PartsFolder) -> None:
    """Nothing can write it, and the rest of the answer is not lost for it."""
    written(folder, outcome(0, "half \ud83d of one"))

    assert merged(folder)[0].text == "half ? of one"


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(folder: PartsFolder) -> None:
    """At every byte of it; what stands before is whole."""
    path = written(folder, outcome(0), outcome(1, "The last one."))
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1

    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        scanned = folder.scan("c1")

        assert [position for position, _ in scanned.index.places()] == [0]
        assert scanned.broken == 0


def test_a_damaged_line_is_counted_and_its_row_is_open_again(folder: PartsFolder) -> None:
    """The lines after it are read all the same."""
    path = written(folder, outcome(0), outcome(1), outcome(2))
    content = bytearray(path.read_bytes())
    content[content.index(b"An answer.", content.index(b'"position":1'))] ^= 1
    path.write_bytes(content)

    scanned = folder.scan("c1")

    assert [position for position, _ in scanned.index.places()] == [0, 2]
    assert scanned.broken == 1


def test_outcomes_are_merged_in_the_order_of_the_input(folder: PartsFolder) -> None:
    """Whatever part they are in, and whenever they came."""
    written(folder, outcome(5), outcome(0))
    written(folder, outcome(3), outcome(1))

    assert [one.position for one in merged(folder)] == [0, 1, 3, 5]


def test_the_first_answer_of_a_row_counts(folder: PartsFolder) -> None:
    """A row that was answered twice, around a kill, is one; a failure gives way to an answer."""
    written(folder, outcome(0, "first"), outcome(1, "", **FAILED), outcome(2, "", **FAILED))
    written(folder, outcome(0, "second"), outcome(1, "at last"))
    again = Failure(kind="RateLimited", message="later")
    written(folder, outcome(2, "", status="failed", failure=again))

    first, second, third = merged(folder)

    assert (first.text, second.text) == ("first", "at last")
    assert third.failure == again


def test_what_was_asked_last_of_a_changed_row_counts(folder: PartsFolder) -> None:
    """Even where it failed: the answer to another question is none to this one."""
    written(folder, outcome(0, "to the old"))
    written(folder, outcome(0, "", digest="f" * 32, **FAILED))

    assert merged(folder)[0].status == "failed"


def test_outcomes_of_another_configuration_are_left_out(folder: PartsFolder) -> None:
    """They are counted, so that it can be said, and count again when it comes back."""
    other = Heading(batch="b1", config="c2", source="")
    written(folder, outcome(0, "with the first"))
    written(folder, outcome(0, "with the second"), heading=other)

    assert [one.text for one in merged(folder, "c2")] == ["with the second"]
    assert folder.scan("c2").others == 1
    assert folder.scan("c2").heading == other
    assert [one.text for one in merged(folder, "c1")] == ["with the first"]


def test_the_index_takes_some_twenty_bytes_a_row() -> None:
    """However many rows there are."""
    index = Index()
    index.add(outcome(99_999), Place(1, 5))

    size = sum(
        sys.getsizeof(kept) for kept in (index._keys, index._parts, index._offsets, index._states)
    )

    assert size / 100_000 < 25


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_said_and_nothing_more_is_written(
    folder: PartsFolder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What was written before stands."""
    part = Part(folder.part(1), HEADING)
    part.append(outcome(0))

    def refuse(descriptor: int, content: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(parts.os, "write", refuse)
    with pytest.raises(BatchError, match=r"part-00001.*cannot be written.*run the same command"):
        part.append(outcome(1))
    monkeypatch.undo()

    with pytest.raises(BatchError, match="cannot be written"):
        part.append(outcome(2))
    part.close()
    assert [one.position for one in merged(folder)] == [0]


def test_a_disk_that_is_full_within_a_line_leaves_whole_lines(
    folder: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every byte of the last record; where it cannot be cut off, it is dropped on reading."""
    real = os.write
    length = len(parts._line("row", outcome(1)))

    def sync_nothing(descriptor: int) -> None:
        """A sync takes its time, and what it is for is no matter here."""

    def first_bytes(count: int) -> None:
        monkeypatch.setattr(parts.os, "write", lambda fd, line: real(fd, line[:count]))

    def no_cut(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "no")

    for count in range(length):
        monkeypatch.setattr(parts.os, "fsync", sync_nothing)
        part = Part(folder.part(1), HEADING)
        part.append(outcome(0))
        if count % 2:
            monkeypatch.setattr(parts.os, "ftruncate", no_cut)
        first_bytes(count)
        with pytest.raises(BatchError, match="no space left"):
            part.append(outcome(1))
        monkeypatch.undo()
        part.close()

        assert [one.position for one in merged(folder)] == [0]
        part.path.unlink()


def test_a_limit_of_the_kernel_is_met_as_a_full_disk_is(folder: PartsFolder) -> None:
    """No mock: a file of this process may not grow beyond it."""
    part = Part(folder.part(1), HEADING)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    count = 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        with pytest.raises(BatchError, match=r"no space left|file too large"):  # noqa: PT012
            while part.append(outcome(count)):
                count += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    part.close()

    assert count >= 1
    assert [one.position for one in merged(folder)] == list(range(count))


def test_a_second_process_is_refused_and_told_who_is_first(folder: PartsFolder) -> None:
    """It may be another one of the same machine, or this very one."""
    with (
        folder.lock(),
        pytest.raises(BatchInUse, match=rf"process {os.getpid()} "),
        PartsFolder(folder.path.with_name("out.jsonl")).lock(),
    ):
        pass

    with folder.lock():  # free again
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(folder: PartsFolder) -> None:
    """The kernel gives it back."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from orchestrator.batch.parts import PartsFolder\n"
        "with PartsFolder(Path(sys.argv[1])).lock(): os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(folder.path.with_name("out.jsonl"))],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert ended.returncode == -signal.SIGKILL
    with folder.lock():
        pass


def test_where_there_are_no_locks_the_owner_name_decides(
    folder: PartsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has ended leaves nothing to wait for; one that runs is waited for."""
    monkeypatch.setattr(parts, "_flock", lambda _: False)
    with folder.lock():
        owner = (folder.path / "lock").read_text().split("|")
        with pytest.raises(BatchInUse), folder.lock():
            pass
    assert not (folder.path / "lock").read_text(), "another machine could not see that it has ended"

    owner[4] = "1"  # the same number, given to another process
    (folder.path / "lock").write_text("|".join(owner))
    with folder.lock():
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """Before any row is asked."""
    with pytest.raises(BatchError, match=r"no such file or directory; .* choose an output"):
        PartsFolder(tmp_path / "nowhere" / "out.jsonl").lock().__enter__()


def test_parts_of_a_newer_program_are_not_misread(folder: PartsFolder) -> None:
    """It says so, and what can be done."""
    path = written(folder, outcome(0))
    line = parts._line("row", outcome(1)).replace(b'"v":1', b'"v":2')
    text = line.partition(b" ")[2][:-1]
    path.write_bytes(path.read_bytes() + b"%08x %s\n" % (parts.zlib.crc32(text), text))

    with pytest.raises(BatchError, match=r"format 2.*--fresh"):
        folder.scan("c1")
