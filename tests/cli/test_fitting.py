"""Who of a panel can be asked: keys decide, and nobody is left out silently."""

import pytest

from orchestrator.cli.fitting import fit
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import UnknownModel

NAMES = ("gpt", "claude", "gemini", "command", "mistral")
CONFIG = OrchestratorConfig.model_validate(
    {
        "models": {
            name: {"provider": "openai", "model": name, "weight": weight}
            for weight, name in enumerate(NAMES, 1)
        },
        "routes": {"fast": {"models": ["gpt"], "fallback": ["claude"]}},
        "panels": {
            "council": {
                "members": NAMES,
                "synthesizer": "claude",
                "fallback_synthesizers": ["gemini", "gpt"],
            },
            "routed": {"members": ["fast", "mistral", "command"]},
        },
    }
)
PATTERNS = ("compare", "debate")


def test_with_every_key_nothing_changes() -> None:
    """The usual case is left alone."""
    request = RequestConfig(prompt="hi")

    assert fit(request, CONFIG, PATTERNS, ()).request is request


def test_members_without_a_key_are_left_out_and_named() -> None:
    """As long as the others make the quorum of the whole panel: three of five."""
    fitted = fit(RequestConfig(prompt="hi"), CONFIG, PATTERNS, {"gpt", "mistral"})

    assert fitted.request.members == ("claude", "gemini", "command")
    assert fitted.request.synthesizer is None
    assert fitted.notes == ("not asked, because no key is set: gpt, mistral",)


def test_below_the_quorum_everybody_is_asked() -> None:
    """Two of five are no majority: the run is to be degraded, and to say why."""
    request = RequestConfig(prompt="hi")
    fitted = fit(request, CONFIG, PATTERNS, {"gpt", "claude", "mistral"})

    assert fitted.request is request
    assert "only these have a key: gemini, command" in fitted.notes[0]


def test_a_synthesizer_without_a_key_is_replaced() -> None:
    """By the panel's own next one."""
    fitted = fit(RequestConfig(prompt="hi"), CONFIG, PATTERNS, {"claude"})

    assert fitted.request.synthesizer == "gemini"
    assert "gemini writes in place of claude" in fitted.notes


def test_without_a_fallback_the_heaviest_member_writes() -> None:
    """As where no synthesizer is configured."""
    request = RequestConfig(prompt="hi", members=("gpt", "claude", "gemini"), synthesizer="mistral")
    fitted = fit(request, CONFIG, PATTERNS, {"mistral", "gpt"})

    assert fitted.request.synthesizer == "gemini"


def test_a_route_is_a_member_as_long_as_one_of_its_deployments_has_a_key() -> None:
    """Its fallback is there for that."""
    request = RequestConfig(prompt="hi", model="routed")

    assert fit(request, CONFIG, PATTERNS, {"gpt"}).request is request
    assert fit(request, CONFIG, PATTERNS, {"gpt", "claude"}).request.members == (
        "mistral",
        "command",
    )


def test_one_model_is_asked_whatever_its_key() -> None:
    """Its own error says best what is missing."""
    request = RequestConfig(prompt="hi", model="gpt")

    assert fit(request, CONFIG, PATTERNS, {"gpt"}).request is request


def test_an_unknown_name_is_refused_before_anything_is_loaded() -> None:
    """With the name that was meant."""
    with pytest.raises(UnknownModel, match="did you mean 'gpt'"):
        fit(RequestConfig(prompt="hi", model="gptt"), CONFIG, PATTERNS, ())
