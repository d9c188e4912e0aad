"""One deployment's configuration: checked once, and never a word of its key."""

import copy
import json
import pickle
import traceback
from typing import Any

import pydantic
import pytest

from adapters import LLMProvider, ModelConfig, PriceConfig
from adapters.config import MissingVariable, first_set, resolve_references
from tests.adapters.wires import KEY


def config(**more: Any) -> ModelConfig:
    return ModelConfig(**{"provider": "openai", "model": "gpt-4.1-mini", **more})


@pytest.mark.parametrize("show", [repr, str, "{}".format, ascii], ids=lambda show: show.__name__)
def test_a_key_is_never_shown(show: Any) -> None:
    """Not by the configuration, not by its parts, not by its dump."""
    found = config(api_key=KEY)

    for value in (found, found.api_key, found.model_dump(), {"model": found}):
        assert KEY not in show(value)
    assert KEY not in found.model_dump_json()
    assert KEY not in json.dumps(found.model_dump(mode="json"))
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == KEY


def test_a_configuration_that_is_refused_does_not_show_its_key() -> None:
    """Nor one that is nearly right: the key may stand at a misspelt name."""
    with pytest.raises(pydantic.ValidationError) as caught:
        config(api_key=KEY, weight=-1)

    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"provider": "openia"}, "provider"),
        ({"model": ""}, "model"),
        ({"weight": 0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"weight": float("inf")}, "weight"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"media_urls": "maybe"}, "media_urls"),
        ({"done_without_finish": "yes"}, "done_without_finish"),
        ({"price": "cheap"}, "price"),
        ({"price": {"input_usd": -1, "output_usd": 1}}, "price"),
        ({"price": {"input_usd": "NaN", "output_usd": 1}}, "price"),
        ({"price": {"input_usd": "Infinity", "output_usd": 1}}, "price"),
        ({"price": {"input_usd": 1}}, "price"),
        ({"price": {"input_usd": 1, "output_usd": 1, "per_call": 1}}, "price"),
        ({"apikey": "x"}, "apikey"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], place: str) -> None:
    """With the name of the field."""
    with pytest.raises(pydantic.ValidationError) as caught:
        config(**given)

    assert {error["loc"][0] for error in caught.value.errors()} == {place}


def test_custom_needs_an_address() -> None:
    """There is no default for somebody's own server."""
    with pytest.raises(
        pydantic.ValidationError, match=r"'custom' needs api_base, for example http"
    ):
        config(provider="custom")

    assert config(provider="custom", api_base="http://127.0.0.1:8080/v1").api_base is not None


def test_a_configuration_does_not_change() -> None:
    """A run keeps the configuration it started with."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config().model = "other"  # type: ignore[misc]


def test_a_configuration_can_be_copied_and_sent_to_another_process() -> None:
    """Its key goes along."""
    found = config(api_key=KEY, price=PriceConfig(input_usd=1, output_usd=2))  # type: ignore[arg-type]

    assert copy.deepcopy(found) == found
    assert pickle.loads(pickle.dumps(found)) == found


def test_providers_are_their_names() -> None:
    """YAML says `openai`."""
    assert [provider.value for provider in LLMProvider] == [
        "openai",
        "anthropic",
        "google",
        "cohere",
        "mistral",
        "custom",
    ]
    assert f"{LLMProvider.OPENAI}" == "openai"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${RIVER}", "Nile"),
        ("https://${RIVER}.example/${DELTA_1}", "https://Nile.example/north"),
        ("$RIVER", "$RIVER"),
        ("${RIVER", "${RIVER"),
        ("${}", "${}"),
        ("${1X}", "${1X}"),
        ("${RIVER:-x}", "${RIVER:-x}"),
        ("$${RIVER}", "$Nile"),
    ],
)
def test_only_references_are_replaced(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    """`${NAME}` and nothing else."""
    monkeypatch.setenv("RIVER", "Nile")
    monkeypatch.setenv("DELTA_1", "north")

    assert resolve_references(text) == expected


def test_what_a_variable_holds_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value is a value."""
    monkeypatch.setenv("RIVER", "${DELTA}")

    assert resolve_references("${RIVER}") == "${DELTA}"


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Set to nothing is not set."""
    monkeypatch.delenv("RIVER", raising=False)
    if value is not None:
        monkeypatch.setenv("RIVER", value)

    with pytest.raises(MissingVariable, match="RIVER is not set") as caught:
        resolve_references("x${RIVER}")
    assert caught.value.name == "RIVER"


def test_the_first_variable_that_is_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one is not set."""
    monkeypatch.setenv("FIRST", "")
    monkeypatch.setenv("SECOND", "2")
    monkeypatch.setenv("THIRD", "3")

    assert first_set(("FIRST", "SECOND", "THIRD")) == "2"
    assert first_set(("FIRST",)) is None
    assert first_set(()) is None
