"""What can go wrong between us and a provider, one class per thing a caller would do differently.

    ProviderError                      status_code, retryable, retry_after_s, provider, deployment
      AuthenticationFailed             401: the key is missing or wrong
      PermissionDenied                 403: the key may not do this
      ModelNotFound                    404: no such model (for this key)
      InvalidRequest                   400, 413, 422: asking again the same way fails again
        ContextWindowExceeded          the prompt is too long for this model
        ContentFiltered                the provider refused the prompt
      RateLimited                      429: slow down; retry_after_s says for how long
      QuotaExhausted                   402, 429: the account has nothing left; waiting is no use
      ProviderUnavailable              5xx, overloaded, a redirect to elsewhere
      ProviderTimeout                  one of our four clocks ran out
      ConnectionFailed                 DNS, refused, TLS, reset before an answer began
      StreamBroken                     the answer stopped before its end; partial_text is what came
      EmptyAnswer                      a 200 with nothing in it
      MalformedResponse                a 200 that is not what the protocol says

`status_code` is the provider's own when it sent one (529 stays 529). No message carries a secret.
"""

from typing import ClassVar, TypedDict

from adapters.types import Usage


class About(TypedDict):
    """Who a call was made to, as errors say it."""

    provider: str
    deployment: str


class ProviderError(Exception):
    """A call to a provider failed.

    Attributes:
        status_code: The provider's own HTTP status, or the closest one where it sent none.
        retryable: Whether the same call may succeed on the same deployment later.
        retry_after_s: How long the provider asked us to wait, in seconds, if it did.
        provider: The company, e.g. `"openai"`.
        deployment: The configured name of the model that was called.
        maybe_billed: Whether the provider may charge for the call all the same. A refusal costs
            nothing, nor does a request that was never sent; a broken answer may.
        usage: The tokens the provider reported before it failed, if it did. Of an answer that
            broke off there may be more.
    """

    default_status_code: ClassVar[int] = 500
    default_retryable: ClassVar[bool] = False
    default_maybe_billed: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        provider: str = "",
        deployment: str = "",
        maybe_billed: bool | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = self.default_status_code if status_code is None else status_code
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.provider = provider
        self.deployment = deployment
        self.maybe_billed = self.default_maybe_billed if maybe_billed is None else maybe_billed
        self.usage = usage

    def __str__(self) -> str:
        message: str = super().__str__()
        return f"{self.deployment or self.provider}: {message}" if self.provider else message


class AuthenticationFailed(ProviderError):
    """The provider does not accept the key."""

    default_status_code = 401


class PermissionDenied(ProviderError):
    """The key is good but may not do this."""

    default_status_code = 403


class ModelNotFound(ProviderError):
    """The provider knows no such model, or hides it from this key."""

    default_status_code = 404


class InvalidRequest(ProviderError):
    """The request itself is at fault; sending it again fails again."""

    default_status_code = 400


class ContextWindowExceeded(InvalidRequest):
    """The prompt and the asked-for answer do not fit into the model's window."""


class ContentFiltered(InvalidRequest):
    """The provider refused the prompt for its content."""


class RateLimited(ProviderError):
    """Too many requests or tokens for the moment."""

    default_status_code = 429
    default_retryable = True


class QuotaExhausted(ProviderError):
    """The account, plan or daily allowance is spent; waiting seconds does not help."""

    default_status_code = 429


class ProviderUnavailable(ProviderError):
    """The provider is down, overloaded, or sends us elsewhere."""

    default_status_code = 503
    default_retryable = True


class ProviderTimeout(ProviderError):
    """A limit of ours ran out: connect, first content, gap between contents, or total."""

    default_status_code = 504
    default_retryable = True
    default_maybe_billed = True


class ConnectionFailed(ProviderError):
    """No connection, or it was lost before an answer began."""

    default_status_code = 502
    default_retryable = True
    default_maybe_billed = True


class StreamBroken(ProviderError):
    """The answer ended before its end. `partial_text` is what had arrived."""

    default_status_code = 502
    default_retryable = True
    default_maybe_billed = True

    def __init__(
        self, message: str, *, partial_text: str = "", provider: str = "", deployment: str = ""
    ) -> None:
        super().__init__(message, provider=provider, deployment=deployment)
        self.partial_text = partial_text


class EmptyAnswer(ProviderError):
    """A successful status with no text and no tool call."""

    default_status_code = 502
    default_retryable = True
    default_maybe_billed = True


class MalformedResponse(ProviderError):
    """A successful status whose body does not follow the protocol."""

    default_status_code = 502
    default_retryable = True
    default_maybe_billed = True
