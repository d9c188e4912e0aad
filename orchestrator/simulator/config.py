"""How the simulator behaves: seed, latency, limits and faults, by model."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from orchestrator.simulator.directives import parse_directives

EVERY_MODEL = "*"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LatencyConfig(_Strict):
    """How long an answer takes: log-normal around the median, seeded, never above `max_s`."""

    median_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    sigma: Annotated[float, Field(ge=0, le=3, allow_inf_nan=False)] = 0.3
    max_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    gap_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class LimitConfig(_Strict):
    """A provider's rate limit: requests and tokens a minute."""

    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None


class SimulatorConfig(_Strict):
    """Everything about a simulator. Models are named without their directives; `*` is any."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0 takes a free one
    tls: bool = False  # with a certificate nobody trusts
    seed: int = 0
    latency: dict[str, LatencyConfig] = Field(default_factory=dict)
    limits: dict[str, LimitConfig] = Field(default_factory=dict)
    faults: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    models: tuple[str, ...] = ("sim-small", "sim-large")  # what a listing shows; any is answered
    keys: tuple[SecretStr, ...] | None = None  # None accepts every key that is not empty
    wrong_share: Annotated[float, Field(ge=0, le=1)] = 0.15  # of sums that come out wrong
    context_tokens: Annotated[int, Field(gt=0)] = 1_000_000
    body_bytes: Annotated[int, Field(gt=0)] = 64 * 2**20
    keep_requests: Annotated[int, Field(gt=0)] = 10_000  # records held in memory
    log_path: Path | None = None  # one JSON line a request

    @field_validator("faults")
    @classmethod
    def _known_directives(cls, faults: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for directives in faults.values():
            parse_directives(directives)
        return faults

    @model_validator(mode="after")
    def _loopback_or_keys(self) -> Self:
        if self.host not in ("127.0.0.1", "::1", "localhost") and not self.keys:
            raise ValueError(f"host {self.host!r} is reachable from outside: set keys as well")
        return self
