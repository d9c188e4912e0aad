"""What the gateway says on stderr: a line a request, and what goes wrong. Never bodies or keys."""

import logging
import sys
from urllib.parse import quote

from orchestrator.redaction import Redacting
from orchestrator.server.gate import Exchange

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
LOUD = (
    "aiohttp",
    "asyncio",
    "httpcore",
    "httpx",
    "LiteLLM",
    "litellm",
    "openai",
    "uvicorn",
    "watchfiles",
)
_PLAIN = "/-._~:@!$&'()*+,;="  # of a path, what means nothing in a log
_log = logging.getLogger("orchestrator.access")


def set_up() -> None:
    """Write to stderr, without secrets; what other libraries say is written from warnings on."""
    out = logging.StreamHandler(sys.stderr)
    out.setFormatter(Redacting(FORMAT))
    root = logging.getLogger("orchestrator")
    root.addHandler(out)
    root.setLevel(logging.INFO)
    root.propagate = False
    others = logging.getLogger()
    others.addHandler(out)
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


class AccessLog:
    """Writes a line for every request that has ended."""

    def ended(self, exchange: Exchange) -> None:
        """Who asked for what, by the id of a key, and what came of it."""
        _log.info(
            "%s key=%s %s %s %d %.1fms",
            quote(exchange.request_id, safe=_PLAIN),
            exchange.key_id or "-",
            exchange.method,
            quote(exchange.path, safe=_PLAIN),
            exchange.status,
            exchange.elapsed_s * 1000,
        )
