"""litellm is imported at the first call, in a thread, quietly, and never before."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(code: str, *, env: dict[str, str] | None = None) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


HEAVY = ("litellm", "openai", "httpx", "aiohttp", "tiktoken", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import adapters",
        "import adapters, asyncio; asyncio.run(adapters.MockAdapter(['x']).generate('?'))",
        "import adapters; adapters.MockAdapter().estimate(adapters.CompletionRequest(messages=[]))",
        (
            "import adapters; c = adapters.ModelConfig(provider='openai', model='m', api_key='k');"
            " a = adapters.create_adapter(c); a.is_available(); a.estimate("
            "adapters.CompletionRequest(messages=[{'role': 'user', 'content': 'hello'}]))"
        ),
    ],
    ids=["adapters", "a mock's answer", "a mock's estimate", "an adapter that is not called"],
)
def test_nothing_heavy_is_imported_before_a_call(code: str) -> None:
    """It costs seconds and 160 MB; help, checks and mock answers do without."""
    found = run(f"{code}; import sys; print([n for n in {HEAVY!r} if n in sys.modules])")

    assert found.strip() == "[]"


LOADING = """
import asyncio, logging, os, sys, threading
from adapters import _litellm

async def main():
    main_thread, importers = threading.get_ident(), set()

    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "litellm":
                importers.add(threading.get_ident())

    sys.meta_path.insert(0, Watch())
    turns = 0

    async def tick():
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    ticking = asyncio.ensure_future(tick())
    assert not _litellm.is_loaded()
    await asyncio.gather(*(_litellm.load() for _ in range(5)))
    ticking.cancel()
    assert _litellm.is_loaded()
    assert main_thread not in importers, "imported in the loop's own thread"
    assert importers, "not imported through the watch"
    assert turns >= 5, turns  # the loop went on meanwhile
    import litellm
    assert litellm.suppress_debug_info and not litellm.telemetry and litellm.num_retries == 0
    assert "litellm.proxy.proxy_server" not in sys.modules
    assert litellm.utils.json_data is None and litellm.utils.claude_json_str
    for name in ("LiteLLM", "httpx", "openai"):
        logging.getLogger(name).debug("Bearer k3y-Zq7Wm2Xv9Rt4Lp8N")
        logging.getLogger(name).warning("Bearer k3y-Zq7Wm2Xv9Rt4Lp8N")
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"

asyncio.run(main())
"""


def test_litellm_is_imported_in_a_thread_and_says_nothing() -> None:
    """The loop goes on meanwhile; no download, no log line, even where debugging is switched on."""
    switches = {"LITELLM_LOG": "DEBUG", "LITELLM_LOCAL_MODEL_COST_MAP": "False"}
    blocked = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('a download at import')\n"
        "socket.getaddrinfo = refuse\n"
    )

    assert run(blocked + LOADING, env=switches) == ""


def test_the_garbage_collector_does_not_walk_what_litellm_brought() -> None:
    """It stays for good, and walking it stopped every call for a quarter of a second."""
    found = run(
        "import asyncio, gc; from adapters import _litellm; asyncio.run(_litellm.load());"
        " print(gc.get_freeze_count() // 100_000, len(gc.get_objects()) // 100_000)"
    )

    frozen, walked = map(int, found.split())
    assert frozen >= 1
    assert walked == 0
