"""The store of receipts: private, whole, found by the beginning of an id."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import store
from orchestrator.errors import InvalidRun


def keep(made: Any, *names: str) -> None:
    for age, name in enumerate(reversed(names)):
        path = store.save(made.receipt(run_id=name))
        os.utime(path, ns=(age * 10**9, age * 10**9))


def test_a_receipt_comes_back_as_it_was(made: Any) -> None:
    """The record of a run is not summarised on the way to the disk."""
    receipt = made.receipt()
    store.save(receipt)

    assert store.load("run-0001") == receipt


def test_receipts_are_for_their_owner_alone(made: Any, orchestrator_home: Path) -> None:
    """They hold prompts and answers."""
    path = store.save(made.receipt())

    assert path.parent == orchestrator_home / "runs"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_failed_write_leaves_nothing_behind(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a receipt is never found."""

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(made.receipt())

    assert list(store.directory().iterdir()) == []


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
    """Neither when it is looked for nor when it is saved."""
    with pytest.raises(InvalidRun, match="is no run id"):
        store.load(name)
    with pytest.raises(InvalidRun, match="is no run id"):
        store.save(made.receipt(run_id=name))


def test_a_damaged_receipt_is_named(made: Any) -> None:
    """The user is told which file, not what pydantic thinks of it."""
    path = store.save(made.receipt())
    path.write_text('{"run_id": 1')
    with pytest.raises(InvalidRun, match=r"run-0001\.json is no receipt"):
        store.latest()
