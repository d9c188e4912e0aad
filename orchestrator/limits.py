"""What a run may use up, by whose budgets, and how long its answers may be. Pure."""

from collections.abc import Iterable
from typing import Literal

from adapters.prices import Capacity
from orchestrator.amounts import Caps, Scope, nanousd
from orchestrator.config import BudgetsConfig, OrchestratorConfig, RequestConfig, TenantWindow


def run_caps(budgets: BudgetsConfig, request: RequestConfig) -> Caps:
    """The limits of a run as a whole: the operator's or the caller's, whichever is lower."""
    ours = budgets.per_run.caps
    money = None if request.max_cost_usd is None else nanousd(request.max_cost_usd)
    return Caps(
        money_nanousd=_lower(ours.money_nanousd, money),
        tokens=_lower(ours.tokens, request.max_run_tokens),
        calls=_lower(ours.calls, request.max_calls),
    )


def run_time_s(config: OrchestratorConfig, request: RequestConfig) -> float:
    """The run's deadline, in seconds after its start."""
    wanted = request.time_s or config.timeouts.run_s
    return min(wanted, config.budgets.per_run.time_s or wanted)


def _lower(one: int | None, other: int | None) -> int | None:
    given = [limit for limit in (one, other) if limit is not None]
    return min(given, default=None)


def shared_scopes(
    budgets: BudgetsConfig,
    caps: Caps,
    run_id: str,
    tenant: str,
    tenant_windows: Iterable[TenantWindow] = (),
) -> tuple[Scope, ...]:
    """The budgets that every call of a run counts in: its own, its tenant's, everybody's."""
    run = () if caps.is_empty else (Scope(kind="run", name=run_id, caps=caps),)
    own = (
        Scope(kind="key", name=tenant, every=window.every, caps=window.caps)
        for window in tenant_windows
    )
    return (*run, *_windows(budgets, "key", tenant), *own, *_windows(budgets, "global", ""))


def deployment_scopes(budgets: BudgetsConfig, deployment: str) -> tuple[Scope, ...]:
    """The budgets of one deployment."""
    return _windows(budgets, "deployment", deployment)


def _windows(
    budgets: BudgetsConfig, kind: Literal["key", "deployment", "global"], name: str
) -> tuple[Scope, ...]:
    return tuple(
        Scope(kind=kind, name=name, every=window.every, caps=window.caps)
        for window in budgets.windows_of(kind, name)
    )


def counts_tokens(scopes: Iterable[Scope]) -> bool:
    """Whether any of these budgets depends on how long an answer is."""
    return any(
        scope.caps.money_nanousd is not None or scope.caps.tokens is not None for scope in scopes
    )


def usual_limit(budgets: BudgetsConfig, capacity: Capacity, prompt_tokens: int = 0) -> int:
    """How long an answer may be where nobody has said: as the operator and the model allow."""
    limits = [budgets.max_tokens, capacity.max_output_tokens or budgets.max_tokens]
    if capacity.context_tokens is not None:
        limits.append(max(capacity.context_tokens - prompt_tokens, budgets.min_tokens))
    return min(limits)
