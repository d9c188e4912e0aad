"""A program that leaves things open, in one of several ways, and ends: for `test_blocking`.

    python leaving.py HOW PORT

It asks a simulator on that port, or somebody scripted where no connection matters, and says what
it has got.
"""

import gc
import os
import signal
import sys
import threading
from functools import partial
from typing import Any

from adapters import MockAdapter, ModelConfig
from adapters.mock import Reply
from orchestrator import EnhancedOrchestrator, OpenAI, OrchestratorConfig, client
from orchestrator.config import LedgerConfig

HELLO: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]


def client_of(port: str, directive: str = "") -> OpenAI:
    base = f"http://127.0.0.1:{port}{directive}/openai/v1"
    model = ModelConfig(
        provider="openai",  # type: ignore[arg-type]
        model="gpt-5-mini",
        api_base=base,
        api_key="simulated-key",  # type: ignore[arg-type]
        price="free",  # or a list of prices would be loaded, which takes its time
    )
    return OpenAI(config=OrchestratorConfig(models={"alpha": model}, ledger=LedgerConfig()))


def ask(asked: OpenAI) -> str:
    reply = asked.chat.completions.create(model="alpha", messages=HELLO)
    return reply.choices[0].message.content or ""


def scripted(monologue: Reply | str) -> OpenAI:
    """A client whose only model says this."""
    client.EnhancedOrchestrator = partial(  # type: ignore[assignment,misc]
        EnhancedOrchestrator, adapters={"alpha": MockAdapter([monologue])}
    )
    return client_of("1")


def unclosed(_: str) -> None:
    """A client that nobody closes."""
    held.append(scripted("Scattering."))
    print(ask(held[0]), flush=True)


def streaming(port: str) -> None:
    """A stream that is left in its midst, held to the very end."""
    slow = client_of(port, "/~gap200ms")
    held.append(slow.chat.completions.create(model="alpha", messages=HELLO, stream=True))
    print(next(held[0]).id, flush=True)


def waiting(_: str) -> None:
    """A thread that still waits for an answer."""
    slow = scripted(Reply(text="Late.", delay_s=10))
    threading.Thread(target=ask, args=(slow,), daemon=True).start()
    print(ask(scripted("Scattering.")), flush=True)


def forked(port: str) -> None:
    """A child that uses its parent's client while the parent goes on, and closes it."""
    mine = client_of(port)
    before = ask(mine)
    stream = mine.chat.completions.create(model="alpha", messages=HELLO, stream=True)
    next(stream)
    child = os.fork()
    if child == 0:
        same = ask(mine) == before
        del stream
        gc.collect()
        mine.close()
        sys.exit(0 if same else 3)
    _, status = os.waitpid(child, 0)
    rest = [chunk for chunk in stream if chunk.choices]
    print(os.waitstatus_to_exitcode(status), ask(mine) == before, rest[-1].choices[0].finish_reason)


def interrupted(_: str) -> None:
    """Ctrl-C while an answer is waited for; then another question."""
    slow = scripted(Reply(text="Late.", delay_s=10))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        print(ask(slow))
    except KeyboardInterrupt:
        print("interrupted", ask(scripted("Scattering.")), flush=True)


held: list[Any] = []
WAYS = {
    "unclosed": unclosed,
    "streaming": streaming,
    "waiting": waiting,
    "forked": forked,
    "interrupted": interrupted,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](sys.argv[2])
