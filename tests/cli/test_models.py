"""`models`, `patterns`, `check`, `schema`: what is configured, without calling anybody."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from adapters import ModelConfig
from orchestrator.cli.keys import Key, key_of
from orchestrator.cli.patterns import calls
from orchestrator.patterns import Pattern

Call = Callable[..., Result]
SECRET = "sk-planted-0123456789abcdef"


@pytest.mark.parametrize(
    ("fields", "environment", "key"),
    [
        ({"provider": "openai"}, {}, Key("OPENAI_API_KEY", present=False)),
        ({"provider": "openai"}, {"OPENAI_API_KEY": SECRET}, Key("OPENAI_API_KEY", present=True)),
        (
            {"provider": "anthropic", "api_key": "${TEAM}"},
            {"ANTHROPIC_API_KEY": SECRET},
            Key("TEAM", present=False),
        ),
        (
            {"provider": "anthropic", "api_key": "${TEAM}"},
            {"TEAM": SECRET},
            Key("TEAM", present=True),
        ),
        ({"provider": "mistral", "api_key": SECRET}, {}, Key("in the file", present=True)),
        (
            {"provider": "custom", "api_base": "http://127.0.0.1:1/v1"},
            {},
            Key("none needed", present=True, is_secret=False),
        ),
    ],
)
def test_a_keys_source_is_known_and_the_key_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], environment: dict[str, str], key: Key
) -> None:
    """The variable a call would read, and whether it is there."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = key_of(ModelConfig(model="m", **fields))

    assert found == key
    assert SECRET not in found.line


def test_models_lists_deployments_routes_and_panels(call: Call, team: Path) -> None:
    """Every name that can be asked, with what it needs."""
    result = call("models", "--config", str(team), TEAM_OPENAI_KEY=SECRET)

    assert result.exit_code == 0
    for said in (
        "gpt-5-mini",
        "✓ TEAM_OPENAI_KEY",
        "✗ ANTHROPIC_API_KEY",
        "✓ none needed",
        "free",
        "$0.1 in, $0.4 out",
        "price of 1M tokens",
        "$0.25 in, $2 out",
        "gemini, gpt, else claude",
        "gpt, claude, gemini",
    ):
        assert said in result.stdout
    assert SECRET not in result.output


def test_models_as_json(call: Call, team: Path) -> None:
    """For programs."""
    listing = json.loads(call("models", "--config", str(team), "--json").stdout)
    by_name = {row["name"]: row for row in listing["models"]}

    assert by_name["gpt"]["key_source"] == "TEAM_OPENAI_KEY"
    assert by_name["gpt"]["key_present"] is False
    assert by_name["gemini"]["price"]["input_usd"] == "0.1"
    assert by_name["local"]["price"] == "free"
    assert listing["panels"][0]["members"] == ["gpt", "claude", "gemini"]
    assert listing["routes"][0]["name"] == "fast"


def test_check_says_what_is_there_and_what_is_missing(call: Call, team: Path) -> None:
    """A configuration can be right and still need a key."""
    result = call("check", str(team), TEAM_OPENAI_KEY=SECRET)

    assert result.exit_code == 0
    assert "team.yaml: ok: 4 models, 1 route, 1 panel," in result.stdout
    assert "✓ gpt     TEAM_OPENAI_KEY is set" in result.stdout
    assert "✗ claude  ANTHROPIC_API_KEY is not set" in result.stdout
    assert "2 models cannot be called until the key is set" in result.stdout
    assert SECRET not in result.output
    assert call("check", str(team), "--strict").exit_code == 1


def test_check_takes_its_file_either_way(call: Call, team: Path) -> None:
    """As an argument, or as every other command does; two files are one too many."""
    named = call("check", str(team)).stdout

    assert call("check", "-c", str(team)).stdout == named
    assert call("check", str(team), "-c", str(team)).exit_code == 2


def test_check_reports_every_mistake_with_its_place(call: Call, tmp_path: Path) -> None:
    """All at once, exit code 2, no traceback."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        "models:\n  gpt: {provider: opnai, model: gpt-5-mini}\n"
        "panels:\n  council: {members: [gtp]}\n"
    )
    result = call("check", str(path))

    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"{path}:2:19: " in result.stderr
    assert f"{path}:4:" in result.stderr
    assert "did you mean 'openai'?" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_as_json_carries_the_problems(call: Call, tmp_path: Path, team: Path) -> None:
    """For editors and CI."""
    path = tmp_path / "bad.yaml"
    path.write_text("models: {}\n")
    refused, accepted = call("check", str(path), "--json"), call("check", str(team), "--json")

    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["ok"] is False
    assert json.loads(refused.stdout)["problems"][0].startswith(str(path))
    assert json.loads(accepted.stdout)["ok"] is True


def test_a_file_that_is_not_there_is_named(call: Call) -> None:
    """Whatever command asks for it."""
    for words in (("check", "nowhere.yaml"), ("models", "--config", "nowhere.yaml")):
        result = call(*words)
        assert result.exit_code == 2
        assert "nowhere.yaml" in result.stderr


def test_check_reads_every_pattern_it_can_name(call: Call, team: Path, tmp_path: Path) -> None:
    """A broken pattern is found before the run that needs it."""
    folder = tmp_path / "patterns"
    folder.mkdir()
    (folder / "mine.yaml").write_text("name: mine\nstages: []\n")
    team.write_text(team.read_text() + "patterns_dir: patterns\n")
    result = call("check", str(team))

    assert result.exit_code == 2
    assert "mine.yaml:" in result.stderr


def test_patterns_are_listed_with_their_cost(call: Call, team: Path) -> None:
    """Calls are what a user pays for."""
    result = call("patterns", "--config", str(team))

    assert result.exit_code == 0
    assert "debate" in result.stdout
    rows = json.loads(call("patterns", "--config", str(team), "--json").stdout)
    assert all(row["calls"] and row["description"] for row in rows)


def test_a_pattern_is_shown_whole(call: Call, team: Path) -> None:
    """As it stands in its file, to be copied and changed."""
    shown = call("patterns", "debate", "--config", str(team))
    refused = call("patterns", "debat", "--config", str(team))

    assert "\nname: debate\n" in f"\n{shown.stdout}"
    assert "stages:" in shown.stdout
    assert refused.exit_code == 2
    assert "did you mean 'debate'?" in refused.stderr


WRITE = {
    "name": "write",
    "by": "synthesizer",
    "sees": "all",
    "prompt": "{{ question }} {{ drafts }}",
    "combine": "write",
}
REVISE = {"name": "revise", "each": "panel", "sees": "own", "prompt": "{{ question }} {{ own }}"}


@pytest.mark.parametrize(
    ("stages", "formula"),
    [
        ([{"name": "ask", "each": "panel"}, WRITE], "N + 1"),
        ([{"name": "ask", "each": "panel", "samples": 5}, WRITE], "max(N, 5) + 1"),
        (
            [{"name": "ask", "each": "panel", "samples": 3}, REVISE, WRITE],
            "2 max(N, 3) + 1",
        ),
        ([{"name": "ask", "each": "panel", "roles": ["a", "b"]}, REVISE, WRITE], "5"),
        ([{"name": "ask", "each": "panel"}, {**REVISE, "rounds": 2}, WRITE], "3N + 1"),
        (
            [{"name": "ask", "each": "panel"}, {**REVISE, "unless": "agree"}, WRITE],
            "at most 2N + 1",
        ),
    ],
)
def test_calls_are_a_formula_of_the_panels_size(stages: list[dict[str, Any]], formula: str) -> None:
    """N members, q questions."""
    pattern = Pattern.model_validate(
        {"name": "test", "description": "A test.", "source": "here", "stages": stages}
    )

    assert calls(pattern) == formula


def test_the_schema_is_json(call: Call) -> None:
    """On stdout and nothing else."""
    assert json.loads(call("schema").stdout)["properties"]["models"]


@pytest.mark.parametrize(
    "words", [("check",), ("models",), ("patterns",), ("schema",), ("show", "--list")]
)
def test_looking_does_not_import_litellm(words: tuple[str, ...], team: Path) -> None:
    """It takes seconds; who only looks should not pay them."""
    code = (
        "import os, sys\n"
        f"os.environ['ORCHESTRATOR_CONFIG'] = {str(team)!r}\n"
        "from orchestrator.cli import main\n"
        f"try: main({list(words)!r}, prog_name='orchestrator')\n"
        "except SystemExit as end: assert end.code in (0, 2), end.code\n"
        "print([m for m in ('litellm', 'openai', 'aiohttp') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ask -m g", {"gpt", "gemini"}),
        ("ask -m debate/", {"debate/council"}),
        ("ask -m d", set()),
        ("ask --panel g", set()),
        ("ask --synthesizer g", {"gpt", "gemini"}),
        ("ask --pattern g", set()),
        ("patterns de", {"debate"}),
        ("show 00", {"0001"}),
    ],
)
def test_names_are_completed_from_the_configuration(
    words: str, found: set[str], team: Path, made: Any
) -> None:
    """As the shell would ask, without litellm."""
    code = (
        "import os, sys\n"
        "from orchestrator.cli import main\n"
        "try: main(prog_name='orchestrator', complete_var='_ORCHESTRATOR_COMPLETE')\n"
        "finally: assert 'litellm' not in sys.modules"
    )
    made.kept()
    environment = {
        **os.environ,
        "ORCHESTRATOR_CONFIG": str(team),
        "_ORCHESTRATOR_COMPLETE": "bash_complete",
        "COMP_WORDS": f"orchestrator {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    names = {line.partition(",")[2] for line in done.stdout.splitlines() if line}
    assert names == found, done.stderr


def test_models_shows_rates_and_prices_as_they_are(call: Call, team: Path) -> None:
    """A price is the list's unless the file has one, and one that nobody knows is called so."""
    team.write_text(
        team.read_text().replace(
            "routes:",
            "  odd: {provider: openai, model: nobody-knows-it,"
            " rates: {requests_per_minute: 500, tokens_per_minute: 200000, concurrency: 5}}\n"
            "  tiers: {provider: google, model: gemini-2.5-pro}\n"
            "  embeds: {provider: openai, model: text-embedding-3-small}\n"
            "routes:",
        )
    )
    shown = call("models", "-c", str(team)).stdout
    told = json.loads(call("models", "-c", str(team), "--json").stdout)["models"]
    by_name = {row["name"]: row for row in told}

    said = " ".join(shown.partition("\nodd")[2].partition("tiers")[0].split())
    assert "unknown" in said
    assert "500/min, 200,000 tokens/min, 5 at once" in said
    assert "more if long" in shown
    assert by_name["odd"]["price"] is None
    assert by_name["embeds"]["price"]["input_usd"] == "0.02"
    assert "price: $0.02 in, $0 out per 1M tokens" in call("check", str(team)).stdout
    assert by_name["odd"]["rates"]["concurrency"] == 5
    assert by_name["gpt"]["price"]["source"] == "list"
    assert by_name["gemini"]["price"] == {
        "input_usd": "0.1",
        "output_usd": "0.4",
        "cached_input_usd": "0.1",
        "source": "configuration",
    }


def test_check_warns_of_a_budget_that_fits_no_question(call: Call, team: Path) -> None:
    """Found before the first run is refused."""
    team.write_text(team.read_text() + "budgets: {per_run: {money_usd: 0.000001}}\n")
    result = call("check", str(team))

    assert result.exit_code == 0
    assert "! panels.council: not even a short question fits" in result.stdout
    assert call("check", str(team), "--strict").exit_code == 1
