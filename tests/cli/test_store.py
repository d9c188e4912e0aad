"""The store of receipts: private, whole, found by the beginning of an id."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import store
from orchestrator.config import runs_folder
from orchestrator.errors import InvalidRun


def keep(made: Any, *names: str) -> None:
    for age, name in enumerate(reversed(names)):
        path = made.kept(made.receipt(run_id=name))
        os.utime(path, ns=(age * 10**9, age * 10**9))


def test_a_receipt_comes_back_as_it_was(made: Any) -> None:
    """The record of a run is not summarised on the way to the disk."""
    made.kept(made.receipt())

    assert store.load("run-0001").receipt == made.receipt()
    assert store.is_kept("run-0001")
    assert not store.is_kept("run-0002")


def test_receipts_of_earlier_versions_are_still_read(made: Any) -> None:
    """They were files of their own; of a run that has both, the journal counts."""
    receipt = made.receipt(run_id="run-0000")
    made.kept(made.receipt())
    for name in ("run-0000", "run-0001"):
        store.write_private(runs_folder() / f"{name}.json", receipt.to_json())

    assert store.load("run-0000").receipt == receipt
    assert store.load("run-0001").receipt == made.receipt()
    assert sorted(path.name for path in store.paths()) == ["run-0000.json", "run-0001.jsonl"]


def test_a_run_that_has_not_ended_is_found_without_a_receipt(made: Any) -> None:
    """With everything that was written down of it."""
    made.kept(made.receipt())
    made.kept(made.receipt(run_id="run-0002"), made.call(), ended=False)
    found = store.load("0002")

    assert found.receipt is None
    assert found.record is not None
    assert found.record.calls == (made.call(),)
    assert [kept.run_id for kept in store.unfinished()] == ["run-0002"]


def test_what_is_written_beside_is_private_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receipts hold prompts and answers; and half a file is never found."""
    path = tmp_path / "receipt.json"
    store.write_private(path, b"whole")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write_private(path, b"half")

    assert path.read_bytes() == b"whole"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".*")) == []


def test_the_beginning_of_an_id_is_enough_if_it_is_one_runs(made: Any) -> None:
    """Ids are long; people are not."""
    keep(made, "aaa1", "aaa2", "bbb", "bbbb")

    assert store.load("aaa2").run_id == "aaa2"
    assert store.load("bbb").run_id == "bbb"
    keep(made, "20261122T155038123-cafe")
    assert store.load("20261122").run_id == store.load("caf").run_id
    with pytest.raises(InvalidRun, match="2 runs begin with 'aaa'"):
        store.load("aaa")
    with pytest.raises(InvalidRun, match="no run 'zz'"):
        store.load("zz")


def test_the_latest_run_is_the_one_saved_last(made: Any) -> None:
    """Ids say nothing about time."""
    with pytest.raises(InvalidRun, match="no run yet"):
        store.latest()
    keep(made, "b", "a", "c")

    assert store.latest().run_id == "b"
    assert [path.stem for path in store.paths()] == ["b", "a", "c"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", ".", "a/b", "a\0b", "*", "x" * 200])
def test_an_id_never_becomes_a_path(made: Any, name: str) -> None:
    """It is refused before anything is looked for."""
    made.kept()
    with pytest.raises(InvalidRun, match="is no run id"):
        store.load(name)


def test_a_damaged_receipt_is_named(made: Any) -> None:
    """The user is told which file, not what pydantic thinks of it."""
    path = made.kept()
    path.write_text('{"run_id": 1')
    with pytest.raises(InvalidRun, match=r"run-0001\.jsonl holds no run"):
        store.latest()
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(InvalidRun, match=r"run-0001\.jsonl holds no run"):
        store.latest()
