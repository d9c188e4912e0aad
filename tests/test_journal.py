"""The journal: what was paid for is found again, whatever happened to the file meanwhile."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Completion, ToolCall, Usage
from orchestrator import journal as module
from orchestrator.budget import Plan
from orchestrator.config import RequestConfig
from orchestrator.errors import JournalError
from orchestrator.journal import Journal, Opening, PaidCall, Slot, read
from orchestrator.responses import Receipt

RUN = "20260101T000000000-0123456789"


def opening(run_id: str = RUN, **fields: object) -> Opening:
    request = RequestConfig(prompt="What is it?", max_cost_usd="0.5", tags=("t",), **fields)
    return Opening(
        run_id=run_id,
        started_at="2026-01-01T00:00:00+00:00",
        seed=7,
        nonce="ab" * 16,
        config_hash="0123",
        request=request,
        plan=Plan(members=("gpt",), max_tokens=300, synthesizers=("claude",)),
    )


def paid(key: str = "k", text: str = "An answer.") -> PaidCall:
    completion = Completion(
        text=text,
        reasoning="because",
        finish_reason="tool_calls",
        model="gpt-5-mini-2025-08-07",
        tool_calls=(ToolCall(id="1", name="look", arguments='{"at": "é"}'),),
        usage=Usage(prompt_tokens=3, completion_tokens=4, cached_tokens=1, estimated=True),
    )
    return PaidCall(key=key, deployment="gpt", completion=completion, cost_nanousd=12)


def receipt(run_id: str = RUN) -> Receipt:
    return Receipt(
        run_id=run_id,
        model="gpt",
        pattern="",
        prompt="What is it?",
        seed=7,
        config_hash="0123",
        started_at="2026-01-01T00:00:00+00:00",
        elapsed_s=0.1234567890123,
        status="complete",
        causes=(),
        missing=(),
        calls=1,
        usage=Usage(prompt_tokens=3),
        stages=(),
        content="Naïve ☃ \u2028 answer",
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "runs")


def closed(journal: Journal, *calls: PaidCall, run_id: str = RUN) -> Path:
    """The path of a journal that holds these calls."""
    run = journal.begin(opening(run_id))
    for call in calls:
        run.append(call)
    run.close()
    return journal.path(run_id)


def test_what_was_written_is_read(journal: Journal) -> None:
    """Request, chance, calls and receipt come back equal to what was written."""
    run = journal.begin(opening())
    run.append(paid("a"))
    run.append(paid("b", text="half a pair \ud83d"))
    run.close(receipt())

    record = journal.read(RUN)

    assert record.opening == opening()
    assert record.calls == (paid("a"), paid("b", text="half a pair \ud83d"))
    assert record.receipt == receipt()
    assert record.broken == 0


def test_the_receipt_is_kept_byte_for_byte(journal: Journal) -> None:
    """What a journal gives back prints as it did when the run ended."""
    journal.begin(opening()).close(receipt())

    kept = journal.read(RUN).receipt

    assert kept is not None
    assert kept.to_json() == receipt().to_json()


def test_every_paid_call_is_found_once(journal: Journal) -> None:
    """Two equal calls were two answers: they come back in their order, and then no more."""
    closed(journal, paid("a", "first"), paid("a", "second"))

    run = journal.resume(RUN)
    found = [run.find("a"), run.find("a"), run.find("a"), run.find("b")]
    run.close()

    assert [call and call.completion.text for call in found] == ["first", "second", None, None]


def test_a_resumed_journal_goes_on_where_it_was(journal: Journal) -> None:
    """A second life adds to the first; neither loses anything."""
    closed(journal, paid("a"))

    run = journal.resume(RUN)
    run.append(paid("b"))
    run.close(receipt())

    assert [call.key for call in journal.read(RUN).calls] == ["a", "b"]


def test_a_last_line_torn_at_any_byte_is_dropped(journal: Journal, tmp_path: Path) -> None:
    """Wherever a crash cuts the last line, all before it stands and writing goes on."""
    path = closed(journal, paid("a"), paid("b"))
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1

    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        run = journal.resume(RUN)
        run.append(paid("c"))
        run.close()
        assert [call.key for call in read(path).calls] == ["a", "c"], length


def test_a_damaged_line_costs_only_itself(journal: Journal) -> None:
    """A flipped bit in the middle is noticed by its checksum; its call will be made again."""
    path = closed(journal, paid("a"), paid("b"), paid("c"))
    content = bytearray(path.read_bytes())
    content[content.index(b'"key":"b"') + 7] ^= 1
    path.write_bytes(content)

    record = read(path)

    assert [call.key for call in record.calls] == ["a", "c"]
    assert record.broken == 1


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_is_believed(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    """Whatever single bit is flipped: what is read is what was written, less the line it hit."""
    journal = Journal(tmp_path_factory.mktemp("runs"))
    path = closed(journal, paid("a"), paid("b"))
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)

    try:
        record = read(path)
    except JournalError:
        return

    assert record.opening == opening()
    assert {call.key for call in record.calls} <= {"a", "b"}
    assert all(call == paid(call.key) for call in record.calls)


@given(content=st.binary(max_size=300))
def test_any_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """A file that is no journal gives one clear error and no traceback."""
    path = tmp_path_factory.mktemp("runs") / f"{RUN}.jsonl"
    path.write_bytes(content)

    with pytest.raises(JournalError, match="does not say what was asked"):
        read(path)


def test_only_one_process_is_at_a_run(journal: Journal) -> None:
    """Two that resume the same run would both pay for what is left."""
    assert not journal.is_in_use(RUN)  # there is none yet
    run = journal.begin(opening())

    assert journal.is_in_use(RUN)
    with pytest.raises(JournalError, match="in use"):
        journal.resume(RUN)

    run.close()
    assert not journal.is_in_use(RUN)
    journal.resume(RUN).close()


def test_a_file_system_without_locks_keeps_nobody_out(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There two processes at one run are not told apart; a run is written down all the same."""

    def none_to_give(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module, "flock", none_to_give)
    journal.begin(opening()).close()

    assert not journal.is_in_use(RUN)
    journal.resume(RUN).close()


def test_a_run_that_keeps_no_receipt_is_gone_on_with_after_its_end(tmp_path: Path) -> None:
    """Whoever lost what it had come to finds all that it had paid for."""
    journal = Journal(tmp_path, keeps_receipts=False)
    run = journal.begin(opening(), name="row")
    run.append(paid("a"))
    run.close(receipt())

    again = Slot(journal, "row").resume()

    assert again is not None
    assert again.find("a") == paid("a")
    again.close()


def test_a_run_that_has_ended_is_not_resumed(journal: Journal) -> None:
    """There is nothing left to do, so nothing may be paid for."""
    journal.begin(opening()).close(receipt())

    with pytest.raises(JournalError, match="has ended"):
        journal.resume(RUN)


def test_an_unknown_run_is_named(journal: Journal) -> None:
    """The message says which run was looked for, and where."""
    with pytest.raises(JournalError, match=rf"no journal of run '{RUN}' in .*runs"):
        journal.resume(RUN)


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", "a\0b", ".hidden", "x" * 200])
def test_a_run_id_never_leads_elsewhere(journal: Journal, run_id: str) -> None:
    """An id becomes a file name, so what means something in a path is refused."""
    with pytest.raises(JournalError, match="is no run id"):
        journal.begin(opening(run_id))


def test_a_link_is_not_followed(journal: Journal, tmp_path: Path) -> None:
    """A link planted under a run's name leads nowhere."""
    journal.folder.mkdir()
    target = tmp_path / "target"
    target.write_text("mine")
    journal.path(RUN).symlink_to(target)

    with pytest.raises(JournalError):
        journal.resume(RUN)
    with pytest.raises(JournalError):
        journal.begin(opening())

    assert target.read_text() == "mine"


def test_journals_are_private(journal: Journal) -> None:
    """Prompts and answers are nobody else's business."""
    path = closed(journal)

    assert path.stat().st_mode & 0o777 == 0o600
    assert journal.folder.stat().st_mode & 0o777 == 0o700


def full_disk(monkeypatch: pytest.MonkeyPatch, *, takes: int = 0) -> Callable[[int, bytes], int]:
    """Let the disk take so many bytes more."""
    real = os.write

    def write(descriptor: int, content: bytes) -> int:
        if not takes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content[:takes])

    monkeypatch.setattr(module.os, "write", write)
    return write


def test_without_a_journal_no_run_begins(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is said before anything is paid for, and leaves no empty file behind."""
    with monkeypatch.context() as patched:
        full_disk(patched)
        with pytest.raises(JournalError, match=r"no space left.*no call is made"):
            journal.begin(opening())

    assert list(journal.folder.iterdir()) == []


@pytest.mark.parametrize("takes", [0, 5])
def test_a_disk_that_fills_up_leaves_a_whole_journal(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, takes: int
) -> None:
    """A line that fits only in part is taken back; the next one that fits is written."""
    run = journal.begin(opening())
    run.append(paid("a"))
    with monkeypatch.context() as patched:
        full_disk(patched, takes=takes)
        with pytest.raises(JournalError, match="cannot be written"):
            run.append(paid("b"))
    run.append(paid("c"))
    run.close()

    record = journal.read(RUN)

    assert [call.key for call in record.calls] == ["a", "c"]
    assert record.broken == 0


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    """A file where the folder should be is named, with what it means."""
    (tmp_path / "runs").write_text("")

    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path / "runs").begin(opening())


def test_a_closed_journal_takes_nothing_more(journal: Journal) -> None:
    """Closing twice is harmless; writing afterwards is an error, not a silent loss."""
    run = journal.begin(opening())
    run.close()
    run.close()

    with pytest.raises(JournalError, match="is closed"):
        run.append(paid())


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_journal import Journal, opening, paid
run = Journal(Path(sys.argv[1])).begin(opening())
for number in range(10**6):
    run.append(paid(str(number)))
    print(number, flush=True)
"""


def test_a_killed_process_loses_nothing_it_had_written(tmp_path: Path) -> None:
    """SIGKILL at any moment: every call that was reported as written is there."""
    script = WRITER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(200)]
        writer.send_signal(signal.SIGKILL)

    kept = [int(call.key) for call in Journal(tmp_path).read(RUN).calls]

    assert kept[: len(reported)] == reported
    assert kept == list(range(len(kept)))


def test_a_line_is_plain_ascii_json(journal: Journal) -> None:
    """Any tool can read a journal: a checksum, a space, JSON."""
    path = closed(journal, paid("a"))

    lines = path.read_bytes().splitlines()

    assert [next(iter({**json.loads(line[9:])}.keys() - {"v"})) for line in lines] == [
        "run",
        "call",
    ]
