"""What a line of the log may hold: nothing secret, tracebacks included."""

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache

from adapters import Redactor
from adapters.factory import secrets_in, secrets_of
from orchestrator.config import OrchestratorConfig, ledger_url
from orchestrator.errors import ConfigError

LONGEST = 65_536  # characters of a line, tracebacks included
_OWN_KEY = re.compile(r"^orc-[0-9a-f]{12}-")
# What a request came with in the place of a key, whether or not it is one.
PRESENTED: ContextVar[str] = ContextVar("PRESENTED", default="")


class Redacting(logging.Formatter):
    """Writes a record, and takes out of the whole of it what is secret.

    Secrets are those that any of them was told of, what the request under way has presented as a
    key, and what looks like one. They are told once for the process, as logging is the process's.

    >>> line = logging.makeLogRecord({"msg": "sent %s", "args": ("Bearer abcd1234efgh",)})
    >>> Redacting("%(message)s").format(line)
    'sent ***'
    """

    _redactor = Redactor(())

    @classmethod
    def know(cls, secrets: Iterable[str]) -> None:
        """Take these out as well from now on; those that were known before stay known."""
        redactor = Redactor(cls._redactor.secrets.union(secrets))
        if redactor.secrets != cls._redactor.secrets:
            Redacting._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, its traceback and stack below it."""
        try:
            text = super().format(record)
        except Exception as error:  # noqa: BLE001 - logging itself would print the arguments raw
            text = f"{record.name} has logged what cannot be written ({type(error).__name__})"
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}..."
        presented = PRESENTED.get()
        return self._redactor(text, _presented(presented)) if presented else self._redactor(text)


@lru_cache(maxsize=64)
def _presented(key: str) -> Redactor:
    """Without the key's id, by which the log tells whose it is."""
    return Redactor((_OWN_KEY.sub("", key),))


def know(config: OrchestratorConfig) -> None:
    """Let no line of the log hold what calls of this configuration are made with."""
    found = {secret for model in config.models.values() for secret in secrets_of(model)}
    with suppress(ConfigError):  # nobody can connect with that
        found |= secrets_in(ledger_url(config))
    Redacting.know(found)
