"""No line of a log holds a secret: not in its words, not in a traceback, in no form."""

import base64
import io
import logging
import random
import sys
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from adapters import LLMProvider, ModelConfig, Redactor
from orchestrator import OrchestratorConfig
from orchestrator.cli.last_resort import redact_last_resort
from orchestrator.config import LedgerConfig
from orchestrator.redaction import LONGEST, PRESENTED, Redacting, know
from tests.test_secrets import leaks, secret

SECRETS = {
    name: secret(random.Random(name), odd=True) for name in ("literal", "variable", "own", "given")
} | {name: secret(random.Random(name)) for name in ("user", "password", "ledger")}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A configuration with a secret in every place is in use."""
    monkeypatch.setattr(Redacting, "_redactor", Redactor(()))
    monkeypatch.setenv("MY_KEY", SECRETS["variable"])
    monkeypatch.setenv("OPENAI_API_KEY", SECRETS["own"])
    base = f"http://{SECRETS['user']}:{SECRETS['password']}@127.0.0.1:9/v1"
    models = {
        "literal": {"provider": "openai", "api_key": SECRETS["literal"]},
        "variable": {"provider": "openai", "api_key": "${MY_KEY}"},
        "own": {"provider": "openai"},
        "unset": {"provider": "openai", "api_key": "${NOBODY_SET_THIS}"},
        "user": {"provider": "custom", "api_base": base},
    }
    know(
        OrchestratorConfig(
            models={
                name: ModelConfig.model_validate({"model": "m", "price": "free", **about})
                for name, about in models.items()
            },
            ledger=LedgerConfig.model_validate(
                {"url": f"postgresql://me:{SECRETS['ledger']}@127.0.0.1:9/money"}
            ),
        )
    )
    presented = PRESENTED.set(SECRETS["given"])
    yield
    PRESENTED.reset(presented)


def forms(text: str) -> list[str]:
    raw = text.encode()
    return [text, quote(text, safe=""), base64.b64encode(raw).decode(), raw.hex(), text[3:14]]


def fail(words: str) -> None:
    raise ValueError(f"the provider said {words}")


def logged(message: str, *args: object, error: BaseException | None = None) -> str:
    """What a record is written as, with its traceback and where it was logged."""
    record = logging.LogRecord(
        "test", logging.ERROR, __file__, 1, message, args, None, sinfo=f"Stack:\n  {message}"
    )
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    return Redacting("%(levelname)s %(message)s").format(record)


@pytest.mark.usefixtures("known")
def test_every_known_secret_is_taken_out_in_every_form() -> None:
    """In the message, its arguments, the traceback and the stack."""
    for hidden in SECRETS.values():
        for form in forms(hidden):
            try:
                fail(form)
            except ValueError as error:
                line = logged(f"told {form.replace('%', '%%')} and %s", form, error=error)
            assert line.startswith("ERROR told ***")
            assert "Traceback" in line
            assert "Stack:" in line
            assert not leaks(line, SECRETS), form


@pytest.mark.parametrize(
    "shown",
    [
        "sk-proj-abcdefgh12345678",
        "Authorization: Bearer abcd1234efgh5678",
        "orc-0123456789ab-Zq7Wm2Xv9Rt4Lp8NZq7Wm2Xv9Rt4Lp8N",
        "http://someone:password@host/v1",
        "https://host/v1?api_key=abcdefgh",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(shown: str) -> None:
    """Whoever made it, and whether or not it was ever configured."""
    line = logged(f"before {shown} after")

    assert shown not in line
    assert "***" in line
    assert line.startswith("ERROR before ")


def test_a_key_that_was_presented_is_told_by_its_id() -> None:
    """The line of a request says whose key it came with, and nothing else of it."""
    given = f"orc-5e1f09c4d2b7-{secret(random.Random(1))}"
    token = PRESENTED.set(given)
    try:
        line = logged("key=5e1f09c4d2b7 came as %s", given)
    finally:
        PRESENTED.reset(token)

    assert line.startswith("ERROR key=5e1f09c4d2b7 came as orc-5e1f09c4d2b7-***\n")
    assert not leaks(line, {"given": given.split("-", 2)[2]})


def test_what_is_no_secret_stays() -> None:
    """Ids, paths, several lines; what cannot be written says so, without its arguments."""
    access = "req_0123abcd key=0123456789ab POST /v1/chat/completions 200 12.5ms"

    assert access in logged(access)
    assert "one\ntwo" in logged("one\ntwo")
    broken = logged("%d", "sk-proj-abcdefgh12345678")
    assert broken == "test has logged what cannot be written (TypeError)"
    assert len(logged("x" * 10 * LONGEST)) < LONGEST + 10


@pytest.mark.usefixtures("known")
def test_a_warning_of_a_command_is_redacted_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no log is set up Python prints warnings by itself, by the same rules now."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    assert logging.lastResort is not None
    before = logging.lastResort.formatter
    try:
        redact_last_resort()
        record = logging.makeLogRecord({"msg": SECRETS["own"], "levelno": logging.WARNING})
        logging.lastResort.handle(record)
    finally:
        logging.lastResort.setFormatter(before)

    assert out.getvalue() == "***\n"


def test_a_deployment_without_its_variable_has_no_secret() -> None:
    """An unset variable is for its calls to complain of."""
    unset = ModelConfig(provider=LLMProvider.OPENAI, model="m", api_key="${NOBODY_SET_THIS}")
    know(OrchestratorConfig(models={"one": unset}))

    assert logged("still said") == "ERROR still said\nStack:\n  still said"
