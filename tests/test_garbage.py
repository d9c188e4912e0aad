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


@pytest.mark.parametrize("name", ["adapters", "orchestrator"])
def test_a_library_leaves_it_to_its_program(name: str) -> None:
    """Importing us changes nothing of it."""
    told = printed(
        f"import gc; was = gc.get_threshold(); import {name}; print(was == gc.get_threshold())"
    )

    assert told == "True"
