"""What an error is to a caller over the wire: a status, OpenAI's error body, headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from adapters import errors as provider
from orchestrator import errors


class Refused(Exception):
    """A request that cannot be served as it stands; nothing was called.

    Attributes:
        status: Of the reply.
        kind: OpenAI's `type`.
        param: Which of its fields is at fault, as OpenAI writes it: `messages[0].role`.
        code: OpenAI's word for what is wrong, or ours.
        headers: What the reply is to say beside its body.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}


def withdrawn() -> Refused:
    """What was sent of a streamed answer does not hold any more, which no stream can say."""
    return Refused(
        "The writer of the answer broke off, and nobody could go on with it",
        status=502,
        kind="server_error",
        code="stream_broken",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error as a caller is told it.

    Attributes:
        status: Of the reply, where it has not begun yet.
        kind: OpenAI's `type`.
        headers: `retry-after` and OpenAI's `x-should-retry`, which its SDKs go by.
    """

    status: int
    message: str
    kind: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


@dataclass(frozen=True, slots=True)
class _Row:
    status: int | None  # None: the provider's own
    kind: str
    code: str
    again: bool = True  # whether the caller's SDK may send the same once more
    param: str | None = None  # what is to blame, where it is always the same


_INVALID, _LIMIT, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"

# By class; of one that has no row, the nearest of its bases counts. What was tried on every
# deployment, as often as is sensible, is not worth another try of the caller's SDK at once.
_ROWS: Mapping[type[BaseException], _Row] = {
    provider.AuthenticationFailed: _Row(None, "authentication_error", "invalid_api_key", False),
    provider.PermissionDenied: _Row(None, "permission_error", "permission_denied", False),
    provider.ModelNotFound: _Row(None, _INVALID, "model_not_found", False),
    provider.InvalidRequest: _Row(None, _INVALID, "invalid_request", False),
    provider.ContextWindowExceeded: _Row(400, _INVALID, "context_length_exceeded", False),
    provider.ContentFiltered: _Row(400, _INVALID, "content_filter", False),
    provider.RateLimited: _Row(429, _LIMIT, "rate_limit_exceeded"),
    provider.QuotaExhausted: _Row(429, "insufficient_quota", "insufficient_quota", False),
    provider.ProviderUnavailable: _Row(None, _SERVER, "provider_unavailable"),
    provider.ProviderTimeout: _Row(504, "timeout_error", "provider_timeout"),
    provider.ConnectionFailed: _Row(502, _SERVER, "provider_unreachable"),
    provider.StreamBroken: _Row(502, _SERVER, "stream_broken"),
    provider.EmptyAnswer: _Row(502, _SERVER, "empty_answer"),
    provider.MalformedResponse: _Row(502, _SERVER, "malformed_answer"),
    provider.ProviderError: _Row(502, _SERVER, "provider_error"),
    errors.ConfigError: _Row(500, _SERVER, "invalid_configuration", False),
    errors.PatternError: _Row(500, _SERVER, "invalid_pattern", False),
    errors.UnknownModel: _Row(404, _INVALID, "model_not_found", False, "model"),
    errors.UnknownPattern: _Row(404, _INVALID, "pattern_not_found", False, "orchestration.pattern"),
    errors.InvalidRun: _Row(400, _INVALID, "invalid_run", False),
    errors.NoDeploymentLeft: _Row(503, _SERVER, "no_deployment_left"),
    errors.QuorumNotMet: _Row(502, _SERVER, "quorum_not_met"),
    errors.AllRefused: _Row(400, _INVALID, "invalid_request", False),
    errors.DeadlineExceeded: _Row(504, "timeout_error", "deadline_exceeded", False),
    errors.BudgetExceeded: _Row(429, "insufficient_quota", "budget_exceeded", False),
    errors.UnknownPrice: _Row(400, _INVALID, "unknown_price", False),
    errors.DeploymentBusy: _Row(503, _SERVER, "deployment_busy"),
    errors.BreakerOpen: _Row(503, _SERVER, "breaker_open"),
    errors.RateExceeded: _Row(429, _LIMIT, "rate_limit_exceeded"),
    errors.BatchError: _Row(500, _SERVER, "batch_unusable", False),
    errors.BatchInUse: _Row(409, _INVALID, "batch_in_use", False),
    errors.KeysError: _Row(503, _SERVER, "keys_unavailable"),
    errors.LedgerError: _Row(503, _SERVER, "ledger_unavailable"),
    errors.ReservationClosed: _Row(500, _SERVER, "reservation_closed", False),
    errors.CacheError: _Row(503, _SERVER, "cache_unavailable"),
    errors.JournalError: _Row(503, _SERVER, "journal_unavailable"),
    errors.Diverged: _Row(502, _SERVER, "stream_broken"),
    errors.OrchestratorError: _Row(500, _SERVER, "orchestrator_error"),
}

UNFORESEEN = Fault(
    status=500,
    message="The gateway has failed in a way that nobody foresaw; its log says more.",
    kind=_SERVER,
    code="internal_error",
    headers={"x-should-retry": "false"},
)


def fault_of(error: BaseException) -> Fault:
    """What a caller is told of an error. Of one that nobody foresaw, nothing but that.

    >>> fault_of(errors.UnknownModel("Unknown model 'gtp', did you mean 'gpt'?")).status
    404
    """
    if isinstance(error, Refused):
        return Fault(
            status=error.status,
            message=str(error),
            kind=error.kind,
            code=error.code,
            param=error.param,
            headers=error.headers,
        )
    row = next((_ROWS[kind] for kind in type(error).__mro__ if kind in _ROWS), None)
    if row is None:
        return UNFORESEEN
    own = getattr(error, "status_code", None)
    status = row.status or (own if isinstance(own, int) and 400 <= own <= 599 else 502)
    wait_s = getattr(error, "retry_after_s", None)
    headers = {} if wait_s is None else {"retry-after": str(max(1, ceil(wait_s)))}
    if not row.again:
        headers["x-should-retry"] = "false"
    return Fault(
        status=status,
        message=str(error),
        kind=row.kind,
        code=row.code,
        param=row.param,
        headers=headers,
    )
