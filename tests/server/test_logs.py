"""What stands in the log: a line a request, with nothing of keys and of what was said."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.server.gate import Exchange
from orchestrator.server.keys import KeyFile
from orchestrator.server.logs import AccessLog

Serving = Callable[..., AbstractAsyncContextManager[Any]]


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def lines() -> Iterator[Lines]:
    kept = Lines()
    logger = logging.getLogger("orchestrator.access")
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield kept
    logger.removeHandler(kept)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@given(path=st.text(), request_id=st.text())
def test_a_request_is_one_line_of_six_words(lines: Lines, path: str, request_id: str) -> None:
    """Whatever somebody asks for, it can neither begin a line nor look like another column."""
    lines.lines.clear()
    AccessLog().ended(
        Exchange(
            method="GET",
            path=f"/{path}",
            request_id=f"r{request_id}",
            key_id="0123",
            status=200,
            elapsed_s=0.0125,
        )
    )

    (line,) = lines.lines
    words = line.split(" ")
    assert line.isascii()
    assert line.isprintable()
    assert [words[1], words[2], *words[4:]] == ["key=0123", "GET", "200", "12.5ms"]


async def test_neither_bodies_nor_keys_are_logged(
    serving: Serving, keys: KeyFile, lines: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    """A key is told by its id, and what was asked and answered by nothing."""
    new = keys.create("alice")
    secret = new.key.rpartition("-")[2]
    caplog.set_level(logging.DEBUG)
    async with serving() as gateway:
        for key in (new.key, f"{new.key}x"):
            reply = await gateway.chat(
                messages=[{"role": "user", "content": "a-very-private-question"}],
                headers={"authorization": f"Bearer {key}"},
            )
        for exchange in gateway.seen:
            AccessLog().ended(exchange)
    said = "\n".join((*lines.lines, caplog.text))

    assert reply.status_code == 401
    assert f"key={new.record.id} POST /v1/chat/completions 200 " in said
    assert "key=- POST /v1/chat/completions 401 " in said
    assert secret not in said
    assert "private" not in said
    assert "Hello there" not in said
