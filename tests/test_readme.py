"""The README tells the truth: its examples run, and what it names exists."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import orchestrator
import orchestrator.client
from adapters import ModelConfig, create_adapter
from adapters._media import refused_url
from orchestrator.cli import COMMANDS, main
from orchestrator.config import load_config
from orchestrator.endpoints import ROUTES
from orchestrator.simulator import Simulator, simulated

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """What stands under a heading."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL
    )
    assert found is not None, title
    return found[1]


def first_column(table: str) -> list[str]:
    """The names in backquotes at the head of a table's rows."""
    return re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)


async def test_the_python_example_runs(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied word for word, with the simulator for the providers, it prints a whole answer."""
    example = compile(blocks("python")[0], "README.md", "exec")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        orchestrator, "load_config", lambda path: simulated(load_config(path), simulator)
    )

    await asyncio.to_thread(exec, example, {"__name__": "__main__"})
    status, _, content = capsys.readouterr().out.partition("\n")

    assert status == "complete"
    assert len(content.strip()) > 20


async def test_the_example_of_the_client_runs(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Copied word for word, with the simulator for the providers, it prints an answer."""
    example = compile(blocks("python")[2], "README.md", "exec")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        orchestrator.client, "load_config", lambda path: simulated(load_config(path), simulator)
    )

    names: dict[str, Any] = {}
    await asyncio.to_thread(exec, example, names)
    await asyncio.to_thread(names["client"].close)

    assert len(capsys.readouterr().out.strip()) > 20


def test_the_gateway_serves_what_it_is_said_to_serve() -> None:
    """Every path that stands in its section is one of its own."""
    told = re.findall(r"`(/[a-z_/0-9]+)`", section("From Python").partition("### The gateway")[2])
    served = {path for _, path in ROUTES} | {"/health", "/ready", "/metrics"}

    assert set(told) <= served | {"/openapi.json", "/docs"}
    assert {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/models"} <= set(told)


def test_the_adapter_example_runs() -> None:
    """The adapter that the README makes is one of ours, for the model it names."""
    names: dict[str, object] = {}

    exec(compile(blocks("python")[1], "README.md", "exec"), names)

    assert type(names["adapter"]).__name__ == "AnthropicAdapter"


def test_the_yaml_example_is_a_valid_configuration(tmp_path: Path) -> None:
    """It loads without a complaint and means what the text beside it says."""
    path = tmp_path / "orchestrator.yaml"
    path.write_text(blocks("yaml")[0], "utf-8")

    config = load_config(path)

    assert {"gpt", "claude", "gemini", "local"} == set(config.models)
    assert config.panels["council"].synthesizer == "claude"
    assert config.routes["fast"].models == ("gemini", "gpt")


def test_the_commands_named_are_the_commands_there_are() -> None:
    """No command is promised that is missing, and none is there that is not mentioned."""
    listed = re.search(r"`orchestrator (\w+(?: \| \w+)+)`", section("On the command line"))
    assert listed is not None
    help_text = CliRunner().invoke(main, ["--help"], prog_name="orchestrator").output

    assert set(listed[1].split(" | ")) == set(COMMANDS)
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", help_text, re.MULTILINE)


def test_the_options_named_exist() -> None:
    """Every `orchestrator COMMAND ... --option` of the text is one that the command knows."""
    named = re.findall(r"orchestrator (\w+)[^`|\n]*?(--[a-z-]+)", README)
    assert named

    for command, option in {*named, ("ask", "--strict"), ("ask", "--simulate")}:
        output = CliRunner().invoke(main, [command, "--help"]).output
        assert option in output, f"orchestrator {command} {option}"


def test_the_patterns_named_are_the_patterns_there_are() -> None:
    """The table has a row for each built-in pattern, under its name."""
    built_in = {path.stem for path in (ROOT / "configs" / "patterns").glob("*.yaml")}

    assert set(first_column(section("Patterns"))) == built_in


def test_the_measuring_commands_are_there() -> None:
    """Every program of the table says of itself how it is called."""
    named = first_column(section("Figures"))

    assert {path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")} <= {
        Path(name).name for name in named
    }
    assert [
        name for name in named if '__name__ == "__main__"' not in (ROOT / name).read_text()
    ] == []


@pytest.mark.parametrize(
    ("provider", "api_base", "passed"),
    [
        ("openai", None, {"https"}),
        ("anthropic", None, {"https"}),
        ("cohere", None, {"https"}),
        ("mistral", None, {"https"}),
        ("custom", "https://llm.example.com/v1", {"https"}),
        ("custom", "http://127.0.0.1:8080/v1", set()),
        ("custom", "http://10.0.0.7/v1", set()),
        ("google", None, set()),
    ],
)
def test_media_are_passed_on_as_the_security_section_says(
    provider: str, api_base: str | None, passed: set[str]
) -> None:
    """Who fetches a picture decides whether its address is passed on."""
    fields = {"provider": provider, "model": "m", "api_key": "k", "api_base": api_base}
    adapter: Any = create_adapter(ModelConfig.model_validate(fields))
    found = set()
    for scheme in ("https", "http", "file", "gs"):
        url = {"type": "image_url", "image_url": {"url": f"{scheme}://example.com/cat.png"}}
        messages = [{"role": "user", "content": [url]}]
        fetches = adapter.fetches_media()
        if refused_url(messages, policy=None, provider_fetches=fetches) is None:
            found.add(scheme)

    assert found == passed
    assert f"`{provider}`" in section("Security")


def test_links_and_files_named_exist() -> None:
    """A newcomer who follows a name finds something there."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    house = re.search(r"```text\n(.*?)```", section("The house"), re.DOTALL)
    assert links
    assert house is not None
    folder, named = "", []
    for line in house[1].splitlines():
        start = re.match(r"(\w+/)", line)
        folder = start[1] if start else folder
        named += [folder + name for name in re.findall(r"\b_?[a-z]\w*\.py\b", line)]

    assert len(named) > 10
    assert [name for name in links + named if not (ROOT / name).exists()] == []
