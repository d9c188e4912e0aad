"""What a run is run on: which configuration, and real providers or the embedded simulator."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import click

from adapters import is_loading
from orchestrator.cli import naming, store
from orchestrator.cli.asking import Engine
from orchestrator.cli.breakers import Reporting
from orchestrator.cli.failures import INTERRUPTED
from orchestrator.cli.fitting import Fitted, fit
from orchestrator.cli.keys import key_of
from orchestrator.cli.progress import SIMULATED
from orchestrator.config import (
    OrchestratorConfig,
    RequestConfig,
    find_config,
    load_config,
    packaged_configs,
    with_state,
)
from orchestrator.enhanced import EnhancedOrchestrator
from orchestrator.garbage import collect_seldom
from orchestrator.redaction import know
from orchestrator.resolve import resolve
from orchestrator.simulator import Simulator, simulated

NO_KEYS = (
    "no provider key is set, so the embedded simulator answers: its words are made up. "
    "Set one (`orchestrator models` names the variables) to ask real models."
)
ASKED_FOR = "the embedded simulator answers: its words are made up."
LATENCY_S = (0.2, 0.8)  # long enough to be watched, short enough to be waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A configuration and where its calls go. `note` is what the user must be told about that."""

    config: OrchestratorConfig
    path: Path
    simulated: bool = False
    note: str = ""

    def fit(self, request: RequestConfig) -> Fitted:
        """The request for those who can answer, and what is to be told about it.

        A wrong name and a broken pattern are found here, before seconds go into an engine.
        """
        patterns = naming.library(self.config)
        target = resolve(request, self.config, patterns)
        if target.pattern:
            patterns[target.pattern]  # reads and checks its file
        if self.simulated:
            fitted = Fitted(request, (SIMULATED,))
        else:
            fitted = fit(request, self.config, patterns, _keyless(self.config))
        noted = fitted.request.model_copy(update={"notes": fitted.notes})
        return replace(fitted, request=noted)


def choose(explicit: Path | None, *, simulate: bool) -> Setting:
    """The setting for a command line.

    Simulated text is never a silent stand-in: only `--simulate`, or the packaged configuration
    without a single key, leads to the simulator, and the note says so.
    """
    path = find_config(explicit)
    config = load_config(path)
    if simulate:
        return Setting(config=config, path=path, simulated=True, note=ASKED_FOR)
    if explicit is None and path.samefile(packaged()) and not _any_key(config):
        return Setting(config=config, path=path, simulated=True, note=NO_KEYS)
    return Setting(config=config, path=path)


def packaged() -> Path:
    """The configuration that comes with the package."""
    return packaged_configs() / "orchestrator.yaml"


def _any_key(config: OrchestratorConfig) -> bool:
    """Whether one deployment could be called with a key; one that needs none does not count."""
    keys = (key_of(model, deployment=name) for name, model in config.models.items())
    return any(key.present and key.is_secret for key in keys)


def _keyless(config: OrchestratorConfig) -> frozenset[str]:
    """The deployments that cannot be called for want of a key."""
    return frozenset(
        name for name, model in config.models.items() if not key_of(model, deployment=name).present
    )


@asynccontextmanager
async def open_engine(setting: Setting) -> AsyncIterator[Engine]:
    """The orchestrator for a setting, and the simulator below it if there is one.

    What is simulated costs nothing and answers nobody, so it is neither counted nor cached.
    """
    async with AsyncExitStack() as stack:
        if setting.simulated:
            simulator = await stack.enter_async_context(Simulator())
            config = simulated(setting.config, simulator, spread_s=LATENCY_S)
            config = config.model_copy(update={"ledger": None, "cache": None})
            yield await stack.enter_async_context(make_orchestrator(config))
        else:
            config = with_state(setting.config)
            engine = await stack.enter_async_context(make_orchestrator(config))
            yield stack.enter_context(Reporting(engine, setting.path))


@asynccontextmanager
async def make_orchestrator(config: OrchestratorConfig) -> AsyncIterator[Engine]:
    """The one place where the command line gets its orchestrator from."""
    know(config)
    async with EnhancedOrchestrator(config, journal=store.journal()) as orchestrator:
        collect_seldom()
        try:
            yield orchestrator
        except asyncio.CancelledError:
            if is_loading():
                _leave_at_once()
            raise


def _leave_at_once() -> NoReturn:
    """End an interrupted start now: Python would first wait for the import, in its thread."""
    click.echo("Interrupted.", err=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)  # no call has been made yet, so nothing is left to be put in order
