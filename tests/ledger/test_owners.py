"""Whether the process that left something behind still runs."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.owners import Owner, is_gone, this_process

HERE = this_process("here")
needs_proc = pytest.mark.skipif(not HERE.boot, reason="only Linux tells processes apart for sure")


def test_we_are_still_here() -> None:
    """Whatever name the process gives to its ledgers."""
    assert not is_gone(str(HERE), HERE)
    assert not is_gone(str(this_process("another")), HERE)


@needs_proc
def test_a_process_that_has_ended_is_gone() -> None:
    """Also before its parent has looked after it, while its number is still taken."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        status = Path(f"/proc/{child.pid}/stat").read_text("utf-8")
        started = status.rpartition(")")[2].split()[19]
        owner = str(replace(HERE, pid=child.pid, started=started))
        running = is_gone(owner, HERE)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        unburied = is_gone(owner, HERE)

    assert (running, unburied, is_gone(owner, HERE)) == (False, True, True)


@needs_proc
@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"started": "1"}, True),  # the number is another process's by now
        ({"boot": "another"}, True),  # the host was started anew
        ({"space": "pid:[1]"}, False),  # another container: nobody can see into it
        ({"machine": "another/1"}, False),
        ({"boot": ""}, False),
    ],
)
def test_only_what_is_certain_counts(change: dict[str, str], gone: bool) -> None:
    """A process that may run is left alone until its holds expire."""
    here = replace(HERE, machine="host/0123")

    assert is_gone(str(replace(here, **change)), here) is gone


def test_hosts_without_an_id_are_not_told_apart_by_name() -> None:
    """Two machines may be called the same; that one was started anew proves nothing then."""
    here = Owner("gateway/", "boot-2", "pid:[1]", 7, "99")

    assert not is_gone(str(replace(here, boot="boot-1")), here)


@pytest.mark.parametrize(("error", "gone"), [(ProcessLookupError, True), (PermissionError, False)])
def test_a_process_that_is_hidden_is_asked_for_by_its_number(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], gone: bool
) -> None:
    """Some systems show nobody the processes of others."""

    def kill(pid: int, signal: int) -> None:
        assert signal == 0
        raise error

    monkeypatch.setattr("orchestrator.owners._read", lambda path: "")
    monkeypatch.setattr("os.kill", kill)
    here = Owner("host/0123", "boot", "pid:[1]", 7, "99")

    assert is_gone(str(replace(here, pid=8)), here) is gone
