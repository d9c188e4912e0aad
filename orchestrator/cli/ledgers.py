"""The ledger of a configuration, for those who look into it: nothing is made by looking."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from orchestrator.amounts import Caps, Scope
from orchestrator.config import OrchestratorConfig, ledger_url, with_state
from orchestrator.ledger import Ledger
from orchestrator.ledger_database import find
from orchestrator.limits import deployment_scopes, shared_scopes


@asynccontextmanager
async def opened(config: OrchestratorConfig | None) -> AsyncIterator[Ledger | None]:
    """The ledger in which a configuration's runs are counted; None if there is none yet.

    Raises:
        LedgerError: there is one, and it cannot be used.
        ConfigError: its address has a variable that is not set.
    """
    url = "" if config is None else ledger_url(with_state(config))
    address = find(url) if url else None
    if address is None or address.is_memory or (address.file and not address.file.exists()):
        yield None
        return
    async with Ledger(url) as ledger:
        yield ledger


def name_of(config: OrchestratorConfig) -> str:
    """What the ledger is called: a file, or a server and a database, without any password."""
    return find(ledger_url(with_state(config))).name


def open_windows(config: OrchestratorConfig, tenant: str | None) -> Sequence[Scope]:
    """The budgets over time: of everybody, of one tenant or every one named, of each model."""
    budgets = config.budgets
    named = {window.name or "" for window in budgets.windows if window.scope == "key"} | {""}
    found = [
        *(
            scope
            for name in sorted(named if tenant is None else {tenant})
            for scope in shared_scopes(budgets, Caps(), "", name)
        ),
        *(scope for name in config.models for scope in deployment_scopes(budgets, name)),
    ]
    once = dict.fromkeys(found)  # everybody's stand beside each tenant's
    return sorted(once, key=lambda scope: ("global", "key", "deployment").index(scope.kind))
