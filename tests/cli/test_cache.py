"""`cache`: what is kept of earlier answers, and how to be rid of it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from adapters import Completion
from orchestrator.cache import CompletionCache, default_secret
from orchestrator.cli import cache as cli_cache
from orchestrator.clock import SystemClock
from orchestrator.config import CacheConfig

Call = Callable[..., Result]
KEPT = 3


@pytest.fixture
def cached(team: Path, orchestrator_home: Path) -> Path:
    """A configuration with a cache in which something is kept."""
    team.write_text(team.read_text() + "cache: {ttl_s: 7200, size_mb: 8}\n")
    asyncio.run(_fill(orchestrator_home / "cache"))
    return team


async def _fill(folder: Path) -> None:
    cache = CompletionCache(folder, CacheConfig(), default_secret(), clock=SystemClock())
    for number in range(KEPT):
        answer = Completion(text=f"answer {number}", finish_reason="stop", model="m")
        await cache.put(f"{number:064x}", answer)
    await cache.aclose()


def test_stats_say_what_is_kept_and_in_how_much_room(
    call: Call, cached: Path, orchestrator_home: Path
) -> None:
    """For people, on stdout."""
    result = call("cache", "stats", "-c", str(cached))

    assert result.exit_code == 0
    assert f"folder  {orchestrator_home / 'cache'}" in result.stdout
    assert "3 answers, each for 2 h 0 min" in result.stdout
    assert "of 8.0 MB" in result.stdout
    assert result.stderr == ""


def test_stats_as_json(call: Call, cached: Path, orchestrator_home: Path) -> None:
    """For programs; what only a running process knows is not there."""
    stats = json.loads(call("cache", "stats", "--json", "-c", str(cached)).stdout)

    assert stats.pop("size_bytes") > 0
    assert stats == {
        "enabled": True,
        "folder": str(orchestrator_home / "cache"),
        "answers": KEPT,
        "limit_bytes": 8 * 2**20,
        "ttl_s": 7200.0,
    }


def test_looking_for_a_cache_does_not_make_one(
    call: Call, team: Path, orchestrator_home: Path
) -> None:
    """It is off, and nothing was ever kept."""
    shown = call("cache", "stats", "-c", str(team))
    cleared = call("cache", "clear", "-c", str(team), "--json")

    assert "0 answers" in shown.stdout
    assert "the cache is off" in shown.stderr
    assert json.loads(cleared.stdout) == {"removed": 0}
    assert not orchestrator_home.exists()


def test_clear_removes_every_answer(call: Call, cached: Path) -> None:
    """Without a question where nobody could answer it."""
    cleared = call("cache", "clear", "-c", str(cached))
    again = call("cache", "clear", "-c", str(cached), "--json")

    assert "removed 3 answers from " in cleared.stdout
    assert json.loads(again.stdout) == {"removed": 0}


@pytest.mark.parametrize(
    ("words", "typed", "left"), [((), "n\n", KEPT), ((), "y\n", 0), (("--yes",), "", 0)]
)
def test_clear_asks_on_a_terminal(
    call: Call,
    cached: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    typed: str,
    left: int,
) -> None:
    """Unless it is told not to; the question is no part of the output."""

    class Terminal:
        """stdin, as a terminal has it."""

        def __getattr__(self, name: str) -> object:
            return getattr(sys.stdin, name)

        def isatty(self) -> bool:
            return True

    class Sys:
        """sys, with such a stdin."""

        stdin = Terminal()

    monkeypatch.setattr(cli_cache, "sys", Sys)
    result = call("cache", "clear", "-c", str(cached), *words, stdin=typed)
    stats = json.loads(call("cache", "stats", "--json", "-c", str(cached)).stdout)

    assert result.exit_code == 0
    assert stats["answers"] == left
    assert ("Remove 3 answers from" in result.stderr) == (not words)
    assert "?" not in result.stdout


def test_a_cache_that_cannot_be_used_is_said_to_be(
    call: Call, cached: Path, orchestrator_home: Path
) -> None:
    """A run would go on without it; who asks for it is told."""
    (orchestrator_home / "cache").chmod(0o755)
    for words in (("stats",), ("clear", "--yes")):
        result = call("cache", *words, "-c", str(cached))

        assert result.exit_code == 1
        assert result.stdout == ""
        assert "cannot be used" in result.stderr
        assert "755" in result.stderr


def test_looking_into_the_cache_imports_no_litellm(cached: Path) -> None:
    """It takes seconds."""
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        f"try: main(['cache', 'stats', '-c', {str(cached)!r}], prog_name='orchestrator')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print([m for m in ('litellm', 'openai', 'aiohttp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
