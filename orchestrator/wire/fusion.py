"""OpenRouter's fusion: `model: "fusion"`, and a plugin that says whom to ask and who writes."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from orchestrator.wire.errors import Refused

FUSION = ("fusion", "openrouter/fusion")
MOST_MODELS = 8  # OpenRouter's own limit
Named = Annotated[str, Field(min_length=1, max_length=512)]


class FusionPlugin(BaseModel):
    """The plugin as OpenRouter describes it. Models are named as the configuration names them.

    Attributes:
        analysis_models: The members of the panel; default: those of the panel.
        model: Who analyses what they say, and writes.
        preset: The name of a panel, instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    id: Literal["fusion"]
    analysis_models: Annotated[list[Named], Field(min_length=1, max_length=MOST_MODELS)] | None = (
        None
    )
    model: Named | None = None
    preset: Named | None = None
    max_completion_tokens: Annotated[int, Field(gt=0, le=10**8)] | None = None
    enabled: StrictBool = True
    # What has no meaning here: it is said in the reply that it was not used.
    max_tool_calls: int | None = None
    reasoning: dict[str, Any] | None = None
    temperature: float | None = None


# Why a field of the plugin has no effect.
_UNUSED: Mapping[str, str] = {
    "max_tool_calls": "members of a panel have no tools",
    "reasoning": "reasoning_effort holds for every call",
    "temperature": "temperature holds for every call",
}


def plugged(
    model: str, plugins: Sequence[FusionPlugin], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of a run that a fusion amounts to, and what of the plugin has no effect, and why.

    Args:
        model: As it was asked for.
        plugins: One, or none: then the default panel is asked.
        given: The fields of the run without it.

    Raises:
        Refused: it goes with another model, or against what is asked beside it.
    """
    plugin = plugins[0] if plugins else FusionPlugin(id="fusion")
    if not plugin.enabled or model not in FUSION:
        raise Refused(
            "Model 'fusion' and the enabled plugin 'fusion' go together; send both, or neither",
            param="plugins[0].enabled" if model in FUSION else "model",
            code="invalid_value",
        )
    for name, own in (("pattern", "fusion"), ("members", None), ("synthesizer", None)):
        if plugins and given.get(name) not in (None, own):
            raise Refused(
                f"'orchestration.{name}' and the plugin 'fusion' both say how; keep one",
                param=f"orchestration.{name}",
                code="invalid_value",
            )
    meant: dict[str, Any] = {"model": plugin.preset, "pattern": given.get("pattern") or "fusion"}
    if plugin.analysis_models is not None:
        meant["members"] = tuple(plugin.analysis_models)
    if plugin.model is not None:
        meant["synthesizer"] = plugin.model
    ignored = {
        f"plugins[0].{name}": why
        for name, why in _UNUSED.items()
        if getattr(plugin, name) is not None
    }
    if plugin.max_completion_tokens is not None:
        if given.get("max_tokens") is None:
            meant["max_tokens"] = plugin.max_completion_tokens
        else:
            ignored["plugins[0].max_completion_tokens"] = "the request's own limit goes before it"
    return meant, ignored
