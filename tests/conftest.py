"""Keep every test to itself: no network, no key, no home folder, nothing left running."""

import asyncio
import gc
import inspect
import ipaddress
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from orchestrator.simulator import Simulator

LIVE = os.environ.get("ORCHESTRATOR_RECORD") == "live"  # recording: the only use for the internet
THOROUGH = os.environ.get("ORCHESTRATOR_THOROUGH") == "1"  # the large counts, which take their time

# A reader's own settings must not decide whether a test passes: keys, endpoints, proxies, switches.
PERSONAL = re.compile(
    r"_API_KEY$|_API_TOKEN$|_AUTH_TOKEN$|_BASE_URL$|_API_BASE$|_PROXY$|^LITELLM_"
    r"|^ORCHESTRATOR_(HOME|CONFIG|DEBUG)$",
    re.IGNORECASE,
)
# A suite started in the background ignores Ctrl-C, and so would every command that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if not LIVE:
    for name in [name for name in os.environ if PERSONAL.search(name)]:
        del os.environ[name]

hypothesis.settings.register_profile("suite", deadline=None)  # the machine may be busy
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "suite")


class NetworkBlocked(Exception):
    """A test reached for a machine other than this one.

    Not an OSError: a client would take that for a provider that is down, and carry on.
    """


blocked: list[str] = []


def is_here(host: object) -> bool:
    """Whether a host means this very machine. No host at all does."""
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "localhost")
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text.lower().rstrip(".") == "localhost"
    return address.is_loopback or address.is_unspecified


def refuse_the_internet(event: str, args: tuple[object, ...]) -> None:
    """Stop connections and name look-ups at the interpreter's own door, whoever makes them."""
    if not event.startswith("socket."):
        return
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = args[1]
        target = address[0] if isinstance(address, tuple) else None  # AF_UNIX has no host
    elif event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        target = args[0]
    else:
        return
    if not is_here(target):
        blocked.append(f"{event} {target!r}")
        raise NetworkBlocked(f"{event} {target!r}: tests stay on this machine")


if not LIVE:
    sys.addaudithook(refuse_the_internet)


# Crowds, cuts and long walks: what they run is covered by smaller tests, and with a tracer the
# whole suite would take twice as long.
UNTRACED = frozenset(
    (
        "adapters/test_cuts.py",
        "adapters/test_faults.py",
        "ledger/test_crowd.py",
        "ledger/test_kills.py",
        "ledger/test_model.py",
        "test_deadline.py",
        "test_engine_cuts.py",
        "test_engine_faults.py",
        "test_failover.py",
        "test_invariants.py",
        "test_leaks.py",
        "test_money.py",
        "test_outage.py",
        "test_quotes_hold.py",
        "test_secrets.py",
        "test_whole_runs.py",
    )
)


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fail a test that reached out, even if the code under test swallowed the refusal."""
    blocked.clear()
    yield
    reached = tuple(blocked)
    blocked.clear()
    assert not reached, f"the test reached for the network: {reached}"


@pytest.fixture(autouse=True)
def _garbage() -> Iterator[None]:
    """Have the process of the tests look for garbage as before, whatever a command has set."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.fixture
def blocked_connections() -> list[str]:
    """What was refused so far. A test that means to be refused clears it."""
    return blocked


@pytest.fixture
def thorough() -> bool:
    """Whether to run the large count of a test that has two."""
    return THOROUGH


@pytest.fixture(autouse=True)
def orchestrator_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for every test: receipts, history, recent runs."""
    home = tmp_path / "home"
    monkeypatch.setenv("ORCHESTRATOR_HOME", str(home))
    return home


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A simulator with its defaults, on a port of its own."""
    async with Simulator() as running:
        yield running


@pytest.fixture
async def _nothing_left() -> AsyncIterator[None]:
    """Fail a test that leaves tasks running or sockets open behind all its other fixtures."""
    loop = asyncio.get_running_loop()
    tasks, files = asyncio.all_tasks(), watched_files(loop)
    yield
    running, opened = set[asyncio.Task[object]](), dict[int, str]()
    for pause in (0, 0, 0, 0.01, 0.05, 0.1, 0.3):  # what was cancelled or closed may take a turn
        await asyncio.sleep(pause)
        end_the_worker_of_litellm()
        running = asyncio.all_tasks() - tasks - {asyncio.current_task()}
        opened = {fd: what for fd, what in watched_files(loop).items() if fd not in files}
        if not running and not opened:
            break
        gc.collect(1)  # a generator that nobody closed, in litellm or openai, ends only now
    assert not running, f"tasks left running: {running}"
    assert not opened, f"sockets left open: {opened}"


def end_the_worker_of_litellm() -> None:
    """Cancel the one task that litellm starts on a loop of its own accord and never ends."""
    for task in asyncio.all_tasks():
        if "LoggingWorker" in repr(task.get_coro()):
            task.cancel()


def watched_files(loop: asyncio.AbstractEventLoop) -> dict[int, str]:
    """The file numbers a loop listens to, with what it would do for each."""
    selector = getattr(loop, "_selector", None)  # a proactor (Windows) has none
    return {key.fd: str(key.data) for key in selector.get_map().values()} if selector else {}


@pytest.fixture
def _untraced() -> Iterator[None]:
    """Nobody follows the lines of this test: `no_cover` of pytest-cov has no effect in workers."""
    tracer, tracer_of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]  # as threading itself says "none"
    yield
    sys.settrace(tracer)
    threading.settrace(tracer_of_threads)  # type: ignore[arg-type]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put `_nothing_left` first into every async test: first in is last out."""
    untraced = {Path(__file__).parent / name for name in UNTRACED}
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.insert(0, "_nothing_left")
        if isinstance(item, pytest.Function) and item.path in untraced:
            item.fixturenames.append("_untraced")
