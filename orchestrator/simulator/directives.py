"""Read the behaviours that a model name or a path asks for: `gpt-5-mini--cutmid--200ms`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache

from orchestrator.simulator.faults import FAULTS

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_GAP = re.compile(r"gap(\d+(?:\.\d+)?)(ms|s)")
_AFTER = re.compile(r"after(\d+(?:\.\d+)?)(ms|s)")
_CUT_AT = re.compile(r"cutat(\d+)(clean)?")
_TURNS = re.compile(r"(flap|first)(\d+)")
_BATCH = re.compile(r"batch(fails|expires|stays)")
_POLLS = re.compile(r"polls([1-9]\d*)")
_SIZED = re.compile(r"([a-z][a-z0-9-]*?)(\d+)")


class UnknownDirective(ValueError):
    """A directive that means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one request is to be treated. `model` is the name without its directives."""

    model: str = ""
    faults: tuple[tuple[str, int | None], ...] = ()  # name and size, in the order given
    latency_s: float | None = None
    gap_s: float | None = None
    retry_after_s: float = 2.0
    cut_at: int | None = None
    cut_clean: bool = False
    every: int | None = None  # faults apply to every k-th request only
    first: int | None = None  # faults apply to the first n requests only
    batch: str = ""  # what becomes of a batch as a whole: it fails, expires or stays
    polls: int | None = None  # looks at a batch until it is over

    def strikes(self, turn: int) -> bool:
        """Whether the faults apply to this request; `turn` counts from 1."""
        if self.first is not None and turn > self.first:
            return False
        return self.every is None or turn % self.every == 0


@lru_cache(maxsize=4096)
def read_model(name: str, path: tuple[str, ...] = (), configured: tuple[str, ...] = ()) -> Plan:
    """The plan for a model name, for directives in the path, and for configured ones.

    Raises:
        UnknownDirective: one of them means nothing.
    """
    model, *directives = name.split("--")
    return replace(parse_directives((*configured, *path, *directives)), model=model)


def parse_directives(directives: Iterable[str]) -> Plan:
    """Fold directives into a plan.

    Raises:
        UnknownDirective: one of them means nothing.
    """
    plan = Plan()
    for directive in directives:
        if directive:
            plan = _apply(plan, directive)
    if (plan.every or plan.first) and not plan.faults and plan.cut_at is None:
        plan = replace(plan, faults=(("e500", None),))
    return plan


def _apply(plan: Plan, directive: str) -> Plan:
    if directive in FAULTS:
        return replace(plan, faults=(*plan.faults, (directive, None)))
    if match := _DURATION.fullmatch(directive):
        return replace(plan, latency_s=_seconds(match))
    if match := _GAP.fullmatch(directive):
        return replace(plan, gap_s=_seconds(match))
    if match := _AFTER.fullmatch(directive):
        return replace(plan, retry_after_s=_seconds(match))
    if match := _CUT_AT.fullmatch(directive):
        return replace(plan, cut_at=int(match[1]), cut_clean=bool(match[2]))
    if match := _BATCH.fullmatch(directive):
        return replace(plan, batch=match[1])
    if match := _POLLS.fullmatch(directive):
        return replace(plan, polls=int(match[1]))
    if directive == "flap":
        return replace(plan, every=2)
    if (match := _TURNS.fullmatch(directive)) and int(match[2]) > 0:
        turns = int(match[2])
        return replace(plan, every=turns) if match[1] == "flap" else replace(plan, first=turns)
    if (match := _SIZED.fullmatch(directive)) and match[1] in FAULTS and FAULTS[match[1]].sized:
        return replace(plan, faults=(*plan.faults, (match[1], int(match[2]))))
    near = get_close_matches(directive, [*FAULTS, "200ms", "gap50ms", "cutat100", "flap3"], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UnknownDirective(f"unknown simulator directive {directive!r}{hint}")


def _seconds(match: re.Match[str]) -> float:
    return float(match[1]) / (1000 if match[2] == "ms" else 1)
