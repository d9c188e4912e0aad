"""A running simulator and its client."""

from collections.abc import AsyncIterator

import pytest

from orchestrator.simulator import Simulator
from tests.simulator.calling import Caller


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulator with its defaults."""
    async with Simulator() as running:
        yield running


@pytest.fixture
def caller(simulator: Simulator) -> Caller:
    """A client of the simulator."""
    return Caller(simulator)
