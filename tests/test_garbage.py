"""How a process of our own looks for garbage."""

import subprocess
import sys
from pathlib import Path

import pytest

import orchestrator

ROOT = Path(orchestrator.__file__).parents[1]


def printed(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()


def test_a_process_of_our_own_seldom_looks_for_garbage() -> None:
    """Nor in what it has built already, nor in anything when it ends."""
    told = printed(
        "import atexit, gc;"
        "atexit.register(lambda: print(gc.get_freeze_count() > 20_000));"
        "from orchestrator.garbage import *;"
        "collect_seldom();"
        "print(gc.get_threshold()[0] == MANY_OBJECTS, 1000 < gc.get_freeze_count() < 20_000);"
        "kept = [[] for _ in range(20_000)]"
    )

    assert told.split() == ["True", "True", "True"]


def test_a_server_looks_everywhere_only_at_rest() -> None:
    """And then only once some has come together; never where that is left to a program."""
    told = printed(
        "import gc;"
        "from orchestrator.garbage import *;"
        "older = lambda times: [gc.collect(1) for _ in range(times)];"
        "gc.collect(); older(REST_AFTER); rest(); print(gc.get_count()[2]);"
        "collect_at_rest(); gc.collect(); older(REST_AFTER - 1); rest(); print(gc.get_count()[2]);"
        "older(1); rest(); print(gc.get_count()[2]);"
    )

    assert told.split() == ["10", "9", "0"]


@pytest.mark.parametrize("name", ["adapters", "orchestrator"])
def test_a_library_leaves_it_to_its_program(name: str) -> None:
    """Importing us changes nothing of it."""
    told = printed(
        f"import gc; was = gc.get_threshold(); import {name}; print(was == gc.get_threshold())"
    )

    assert told == "True"
