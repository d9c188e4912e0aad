"""Whole commands in processes of their own, on the simulator: what is kept between them."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result

from adapters import LLMProvider
from orchestrator.simulator import Simulator

Call = Callable[..., Result]
ENDS_WITH_MODULES = (
    "import sys\n"
    "from orchestrator.cli import main\n"
    "try: main(prog_name='orchestrator')\n"
    "finally: print('litellm' in sys.modules, file=sys.stderr)"
)
CONFIG = """\
models:
  one: {{provider: custom, model: m-1, api_base: "{base}", price: {{input_usd: 1, output_usd: 9}}}}
  two: {{provider: custom, model: m-two--stall0--first1, api_base: "{base}", price: free}}
panels:
  both: {{members: [one, two], pattern: compare, synthesizer: one, quorum: 2}}
retry: {{attempts: 1}}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Commands:
    """Runs `orchestrator` as a shell would."""

    config: Path

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ENDS_WITH_MODULES,
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "ORCHESTRATOR_CONFIG": str(self.config)},
        )

    async def call(self, *words: str) -> Done:
        process = await self.start(*words)
        out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out, err.decode())


@pytest.fixture
def commands(simulator: Simulator, tmp_path: Path) -> Commands:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(base=simulator.base_url(LLMProvider.CUSTOM)))
    return Commands(path)


async def test_a_question_is_paid_for_once_and_shown_as_often_as_wanted(
    commands: Commands, call: Call, simulator: Simulator, tmp_path: Path
) -> None:
    """The cache answers at no cost and without litellm; `show` repeats bytes; `usage` counts."""
    commands.config.write_text(commands.config.read_text() + "cache: {ttl_s: 600}\n")
    receipt = tmp_path / "receipt.json"
    first = await commands.call("ask", "Why?", "-m", "one", "--receipt", str(receipt), "--tag", "t")
    run_id = json.loads(receipt.read_bytes())["run_id"]
    again = await commands.call("ask", "Why?", "-m", "one")

    assert (first.code, again.code) == (0, 0)
    assert first.out == again.out != b""
    assert first.err.count("loading the engine") == 1
    assert first.err.splitlines()[-1] == "True"
    assert "0 calls · 0 tokens · cached" in again.err
    assert "loading" not in again.err
    assert again.err.splitlines()[-1] == "False"
    assert len(simulator.requests) == 1
    assert call("show", run_id, "--answer").stdout_bytes == first.out
    assert call("show", "--answer").stdout_bytes == first.out
    assert call("show", run_id, "--json").stdout_bytes == receipt.read_bytes()
    total = json.loads((await commands.call("usage", "--json", "--by", "tag")).out)
    cost = json.loads(receipt.read_bytes())["cost_nanousd"]
    assert [(one["name"], one["cost_nanousd"]) for one in total["usage"]] == [("t", cost)]
    assert total["total"]["calls"] == 1


async def test_an_interrupted_run_pays_for_nothing_twice(
    commands: Commands, call: Call, simulator: Simulator
) -> None:
    """Ctrl-C says how to go on, and what had been answered is not asked again."""
    process = await commands.start("ask", "Why?", "--panel", "both")
    assert process.stderr is not None
    async for line in process.stderr:
        if b"one answered" in line:
            break
    async with asyncio.timeout(60):
        while simulator.arrived < 2:  # noqa: ASYNC110 - the other member asks in its own time
            await asyncio.sleep(0.005)
    process.send_signal(signal.SIGINT)
    rest = (await process.stderr.read()).decode()
    assert await process.wait() == 130
    run_id = rest.partition("--resume ")[2].partition("`")[0]
    assert f"Interrupted; `orchestrator ask --resume {run_id}` goes on with it" in rest
    shown = json.loads(call("show", run_id, "--json").stdout)
    assert (shown["status"], len(shown["paid"])) == ("unfinished", 1)
    asked = len(simulator.requests)

    resumed = await commands.call("ask", "--resume", run_id, "--json")

    told = json.loads(resumed.out)
    assert (resumed.code, told["status"]) == (0, "complete")
    assert told["run_id"].endswith(run_id)
    assert [request.model for request in list(simulator.requests)[asked:]] == ["m-two", "m-1"]
    assert "one answered (paid for before)" in resumed.err


def test_a_failed_run_is_explained_by_its_receipt(call: Call, tmp_path: Path) -> None:
    """The error names the run, and `show` has what one line has no room for."""
    path = tmp_path / "down.yaml"
    path.write_text(
        "models: {down: {provider: openai, model: gpt-5-mini--e500}}\nretry: {attempts: 1}\n"
    )
    failed = call("ask", "Why?", "-m", "down", "-c", str(path), "--simulate")
    run_id = failed.stderr.partition("`orchestrator show ")[2].partition("`")[0]

    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "ProviderUnavailable (500)" in call("show", run_id).stdout
    assert call("show", run_id, "--answer").exit_code == 1
    assert json.loads(call("show", run_id, "--json").stdout)["status"] == "failed"


async def test_a_budget_refuses_before_anybody_is_asked(
    commands: Commands, simulator: Simulator
) -> None:
    """Exit code 3, and the limit in the message."""
    refused = await commands.call("ask", "Why?", "--panel", "both", "--max-cost", "0.0000001")

    assert (refused.code, refused.out) == (3, b"")
    assert "The budget of a run is $0.0000001" in refused.err
    assert "`orchestrator plan` shows what a run needs" in refused.err
    assert len(simulator.requests) == 0
