"""`orchestrator import`: the YAML on stdout, the notes on stderr, and no file overwritten."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from orchestrator.config import load_config, parse_config

Call = Callable[..., Result]

PROXY = """\
model_list:
  - model_name: gpt
    litellm_params: {model: openai/gpt-5-mini, api_key: sk-planted-secret, temperature: 1}
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Path:
    path = tmp_path / "litellm.yaml"
    path.write_text(PROXY)
    return path


def test_the_result_is_on_stdout_and_the_notes_on_stderr(call: Call, proxy: Path) -> None:
    """So that `> orchestrator.yaml` gives a file that can be used."""
    result = call("import", str(proxy))

    assert result.exit_code == 0
    assert list(parse_config(result.stdout).models) == ["gpt"]
    assert f"Note: {proxy}:3:" in result.stderr
    assert "litellm_params.temperature is left out" in result.stderr
    assert "set GPT_API_KEY in the environment, for gpt" in result.stderr
    assert "planted" not in result.stdout + result.stderr


def test_a_file_that_is_there_is_kept_unless_forced(call: Call, proxy: Path) -> None:
    kept = proxy.with_name("orchestrator.yaml")
    kept.write_text("mine")

    refused = call("import", str(proxy), "-o", str(kept))

    assert refused.exit_code == 2
    assert "is there already" in refused.stderr
    assert kept.read_text() == "mine"

    written = call("import", str(proxy), "-o", str(kept), "--force")

    assert written.exit_code == 0
    assert written.stdout == ""
    assert f"`orchestrator check {kept}` is next" in written.stderr
    assert list(load_config(kept).models) == ["gpt"]


def test_force_without_a_file_to_write_is_refused(call: Call, proxy: Path) -> None:
    result = call("import", str(proxy), "--force")

    assert result.exit_code == 2
    assert "--force is for -o" in result.stderr


def test_json_has_the_result_and_every_note(call: Call, proxy: Path) -> None:
    result = call("import", str(proxy), "--json")

    told = json.loads(result.stdout)
    assert told["kind"] == "litellm"
    assert told["variables"] == {"GPT_API_KEY": ["gpt"]}
    assert {note["line"] for note in told["notes"]} == {3}
    assert list(parse_config(told["yaml"]).models) == ["gpt"]


def test_a_file_that_is_neither_is_one_error_with_what_was_found(
    call: Call, tmp_path: Path
) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text("services: {web: {image: nginx}}")

    result = call("import", str(path))

    assert result.exit_code == 2
    assert result.stdout == ""
    assert f"{path}:1:1: The file has the keys 'services'; wanted is" in result.stderr
