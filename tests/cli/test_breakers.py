"""What a running command leaves alone, as other commands see it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from orchestrator.breaker import BreakerState
from orchestrator.cli import breakers
from orchestrator.cli.breakers import Reporting, folder, left_alone
from orchestrator.config import RequestConfig
from orchestrator.events import AttemptFailed, RunFinished

Call = Callable[..., Result]
ASKED = RequestConfig(prompt="Why?")
CLOSED = BreakerState(state="closed", why="", since_s=0.0, probe_in_s=None)
OPEN = BreakerState(state="open", why="5 failures in a row", since_s=4.0, probe_in_s=26.0)


async def test_a_breaker_that_opens_is_seen_while_the_command_runs(made: Any, team: Path) -> None:
    """From the failure that opens it until the command ends; nobody else's configuration."""
    states = {"claude": CLOSED, "gpt": CLOSED}
    engine = made.replay(made.events(), breakers=states)
    seen = []
    with Reporting(engine, team) as reporting:
        async for event in reporting.stream_request(ASKED):
            if isinstance(event, AttemptFailed):
                assert left_alone(team) == []
                states["claude"] = OPEN
            if isinstance(event, RunFinished):
                seen = left_alone(team)
                assert left_alone(team.with_name("other.yaml")) == []

    (one,) = seen
    assert (one.deployment, one.pid, one.state, one.why) == (
        "claude",
        os.getpid(),
        "open",
        "5 failures in a row",
    )
    assert one.probe_at is not None
    assert (one.probe_at - one.since).total_seconds() == 30
    assert list(folder().iterdir()) == []


async def test_a_breaker_that_closes_is_no_longer_told_of(made: Any, team: Path) -> None:
    """The file goes with the last of them."""
    states = {"claude": OPEN}
    engine = made.replay(made.events(), breakers=states)
    with Reporting(engine, team) as reporting:
        async for event in reporting.resume_request("run-0001"):
            if isinstance(event, AttemptFailed):
                assert [one.deployment for one in left_alone(team)] == ["claude"]
                states["claude"] = CLOSED
        assert left_alone(team) == []

    assert engine.resumed == ["run-0001"]


async def test_a_disk_that_refuses_is_no_matter(
    made: Any, team: Path, orchestrator_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is news, not an answer."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(breakers, "write_private", full)
    with Reporting(made.replay(made.events(), breakers={"gpt": OPEN}), team) as reporting:
        events = [event async for event in reporting.stream_request(ASKED)]

    assert isinstance(events[-1], RunFinished)


def leave_word(team: Path, name: str, **changes: Any) -> None:
    """A file as another command leaves it; by default a running one's, this one's."""
    word = {
        "owner": str(breakers.this_process()),
        "config": str(team),
        "at": breakers.SystemClock().now().isoformat(),
        "breakers": {
            "claude": {
                "state": "half_open",
                "why": "it \x1b[2Jrefused the key",
                "since_s": 1.0,
                "probe_in_s": 20.0,
            }
        },
    }
    folder().mkdir(parents=True, exist_ok=True)
    (folder() / name).write_text(json.dumps({**word, **changes}))


def test_models_shows_who_is_left_alone_why_and_until_when(call: Call, team: Path) -> None:
    """For people and for programs."""
    leave_word(team, "4711.json")
    shown = call("models", "-c", str(team)).stdout
    told = json.loads(call("models", "-c", str(team), "--json").stdout)

    row = next(line for line in shown.splitlines() if "refused the key" in line)
    assert row.startswith("claude")
    assert "half open" in row
    assert "in 1" in row or "in 20" in row
    assert row.endswith("4711")
    assert "\x1b" not in shown
    by_name = {model["name"]: model["breakers"] for model in told["models"]}
    assert by_name["gpt"] == []
    assert (by_name["claude"][0]["pid"], by_name["claude"][0]["state"]) == (4711, "half_open")


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "|".join([*str(breakers.this_process()).split("|")[:3], "4711", "1", ""])},
        {"owner": "nobody"},
        {"breakers": {"claude": {"state": "open"}}},
        {"breakers": []},
        {"at": "yesterday"},
    ],
)
def test_what_is_stale_or_broken_is_passed_over(team: Path, changes: dict[str, Any]) -> None:
    """A process that was killed removes no file."""
    leave_word(team, "4711.json", **changes)
    (folder() / "torn.json").write_text('{"owner"')

    assert left_alone(team) == []
