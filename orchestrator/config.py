"""The configuration: its shape, its defaults, and how it is read and cross-checked."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from adapters.config import ModelConfig
from adapters.types import Limits, Message

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RouteConfig(_Strict):
    """A name callers ask for and the ordered deployments behind it."""

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    fallback: tuple[str, ...] = ()
    strategy: Literal["priority"] = "priority"


class PanelConfig(_Strict):
    """Deployments asked together, and how their answers become one."""

    members: Annotated[tuple[str, ...], Field(min_length=1, max_length=32)]
    pattern: str = "compare"
    synthesizer: str | None = None  # default: the member with the highest weight, first of equals
    fallback_synthesizers: tuple[str, ...] = ()
    quorum: Annotated[int, Field(ge=1)] | None = None  # usable answers wanted; default: a majority
    grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0


class TimeoutsConfig(_Strict):
    """The four clocks of a call, and the deadline of a whole run."""

    connect_s: Seconds = 5.0
    first_content_s: Seconds = 15.0
    gap_s: Seconds = 15.0
    total_s: Seconds = 120.0
    run_s: Seconds = 300.0

    def limits(self) -> Limits:
        return Limits(
            connect_s=self.connect_s,
            first_content_s=self.first_content_s,
            gap_s=self.gap_s,
            total_s=self.total_s,
        )


class OrchestratorConfig(_Strict):
    """A whole configuration file."""

    models: Annotated[dict[Name, ModelConfig], Field(min_length=1)]
    routes: dict[Name, RouteConfig] = Field(default_factory=dict)
    panels: dict[Name, PanelConfig] = Field(default_factory=dict)
    timeouts: TimeoutsConfig = TimeoutsConfig()
    patterns_dir: str | None = None  # more patterns, beside the built-in ones; relative to the file


class RequestConfig(_Strict):
    """One run. `model` names a deployment, a route, a panel, or `pattern/panel`.

    Either `prompt` or `messages` is given. `members` replaces the panel's members for this run.
    """

    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    system: str | None = None
    model: str | None = None  # default: the only panel, else the first one
    pattern: str | None = None
    members: tuple[str, ...] | None = None
    synthesizer: str | None = None
    tools: tuple[dict[str, object], ...] | None = None
    tool_choice: str | dict[str, object] | None = None
    response_format: dict[str, object] | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None  # of the shuffles, and passed to providers that take one
    reasoning_effort: str | None = None
    time_s: Seconds | None = None  # the run's deadline; default: timeouts.run_s
    extra: dict[str, object] = Field(default_factory=dict)
