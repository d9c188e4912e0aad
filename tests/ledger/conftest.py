"""Ledgers in memory, in a file and in PostgreSQL."""

import os
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from orchestrator.clock import FakeClock
from orchestrator.ledger import Ledger
from tests.postgres import binaries, make_database, server

numbers = count(1)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    """A PostgreSQL server; skips without its programs, which CI must have."""
    programs = binaries()
    if programs is None:
        missing = "PostgreSQL's server is not installed (Debian: apt install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with server(programs) as socket:
        yield socket


@pytest.fixture
def postgres_url(postgres_socket: Path) -> str:
    """A database of its own."""
    return make_database(postgres_socket, f"ledger_{next(numbers)}")


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'money' / 'ledger.db'}"


@pytest.fixture(params=["memory", "file", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Every kind of database in turn."""
    if request.param == "memory":
        return "sqlite://"
    found = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(found, str)
    return found


@pytest.fixture
def clock() -> FakeClock:
    """Noon, so that a step of hours stays within the day."""
    clock = FakeClock()
    clock.advance(12 * 3600)
    return clock


@pytest.fixture
async def ledger(url: str, clock: FakeClock) -> AsyncIterator[Ledger]:
    """An open ledger, in every kind of database in turn."""
    async with Ledger(url, clock) as ledger:
        yield ledger
