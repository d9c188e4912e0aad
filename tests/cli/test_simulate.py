"""`simulate` and `demo`: the simulator as a server, and the main job on it."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.cli import store
from orchestrator.cli.progress import SIMULATED

Call = Callable[..., Result]
FORMATS = {"openai", "anthropic", "google", "cohere", "mistral"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, running."""
    words = ["simulate", "--port", "0", "--fault", "bad=e503", "--log", str(tmp_path / "log")]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def chat(base: str, model: str) -> int:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(
        f"{base}/chat/completions",
        data=body,
        headers={"Authorization": "Bearer any", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_it_serves_every_provider_until_it_is_interrupted(
    server: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The addresses are on stdout, ready to be read by a script."""
    assert server.stdout is not None
    bases = dict(server.stdout.readline().split() for _ in range(6))
    statuses = [chat(bases["openai"], "good"), chat(bases["openai"], "bad")]
    server.send_signal(signal.SIGINT)
    _, said = server.communicate(timeout=20)

    assert set(bases) == {*FORMATS, "custom"}
    assert statuses == [200, 503]
    assert server.returncode == 130
    assert "Traceback" not in said
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [entry["model"] for entry in log] == ["good", "bad"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fault", "gpt"), "is not MODEL=FAULT"),
        (("--fault", "gpt=cutmd"), "did you mean 'cutmid'?"),
        (("--fault", "gpt=xyzzy"), "--list-faults lists them"),
        (("--host", "0.0.0.0"), "set keys as well"),
        (("--port", "70000"), "0<=x<=65535"),
    ],
)
def test_what_cannot_be_served_is_refused(call: Call, words: tuple[str, ...], said: str) -> None:
    """Before anything listens."""
    result = call("simulate", *words)

    assert result.exit_code == 2
    assert said in result.stderr
    assert "Value error" not in result.stderr


def test_a_port_in_use_is_named(call: Call) -> None:
    """With the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = call("simulate", "--port", str(port))

    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: port {port} of 127.0.0.1 is in use; give another --port (0 takes a free one)\n"
    )


def test_the_faults_are_listed_with_what_they_do(call: Call) -> None:
    """Names alone explain nothing."""
    listed = call("simulate", "--list-faults").stdout

    assert "cutmid " in listed
    assert "a reset in the middle" in listed


def test_the_demo_runs_the_main_job_on_five_wire_formats(call: Call) -> None:
    """Through the real adapters, litellm and the engine; only the models are made up."""
    result = call("demo", "--json")
    answer = json.loads(result.stdout)

    assert result.exit_code == 0
    assert answer["simulated"] is True
    assert answer["status"] == "complete"
    assert answer["content"].strip()
    receipt = store.load(answer["run_id"]).receipt
    assert receipt is not None
    assert {attempt.provider for attempt in receipt.stages[0].attempts} == FORMATS
    assert all(attempt.usage.total_tokens > 0 for attempt in receipt.stages[0].attempts)
    assert SIMULATED in receipt.notes


def test_the_demos_screen_names_everybody_and_the_next_step(call: Call) -> None:
    """Status, tokens and time of every member; the answer; what to type next."""
    screen = call("demo", "--quiet").stdout

    for name in ("gpt", "claude", "gemini", "command", "mistral", *FORMATS):
        assert name in screen
    assert "one answer, by the pattern" in screen
    assert "5 of 5 members" in screen
    assert "orchestrator show" in screen
    assert 'orchestrator ask "..." --simulate' in screen
    assert "· simulated ·" in screen
    assert "Of real models it would have cost $0.0" in " ".join(screen.split())


def test_without_any_key_the_packaged_configuration_answers_simulated_and_says_so(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On stderr, in the JSON and in the receipt: never passed off as real."""
    monkeypatch.chdir(tmp_path)
    result = call("ask", "Why is the sky blue?", "--json")
    answer = json.loads(result.stdout)

    assert result.exit_code == 0
    assert answer["simulated"] is True
    assert "Note: no provider key is set, so the embedded simulator answers" in result.stderr
    assert SIMULATED in answer["notes"]
    assert answer["run_id"] == store.latest().run_id
    assert json.loads(call("show", "--json").stdout)["notes"] == answer["notes"]


def test_a_configuration_of_ones_own_is_never_simulated_silently(call: Call, team: Path) -> None:
    """Its missing keys are an error that says what to do."""
    result = call("ask", "hi", "-m", "claude", "--config", str(team))

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "ANTHROPIC_API_KEY" in result.stderr
    assert "orchestrator check" in result.stderr


def test_any_configuration_can_be_rehearsed(call: Call, team: Path) -> None:
    """--simulate asks nobody else."""
    result = call("ask", "hi", "--config", str(team), "--simulate", "-m", "fast")

    assert result.exit_code == 0
    assert result.stdout.strip()
    assert "Note: the embedded simulator answers" in result.stderr
