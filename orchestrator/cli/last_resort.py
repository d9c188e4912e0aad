"""What Python prints of warnings where no log is set up, as in a command."""

import logging


def redact_last_resort() -> None:
    """Take out of it what is secret."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Redacted())


class _Redacted(logging.Formatter):
    """What redacting needs is loaded for the first line, which most commands never write."""

    def format(self, record: logging.LogRecord) -> str:
        from orchestrator.redaction import Redacting

        return Redacting("%(message)s").format(record)
