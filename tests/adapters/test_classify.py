"""Which error a refusal is, and how long it asks us to wait."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import (
    AuthenticationFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from adapters._classify import error_class, parse_duration_s, retry_after_s, status_of
from adapters._formats import COHERE, WireError, read_error

NOTHING = WireError("")


def said(
    message: str, kind: str | None = "", code: object = None, **more: object
) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "code": code, **more}}


def at_anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}


def at_google(code: int, status: str, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def at_mistral(message: Any, kind: str = "invalid_request_error", code: object = None) -> Any:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def quota(*ids: str) -> dict[str, Any]:
    """Google's detail of which quotas are used up."""
    kind = "type.googleapis.com/google.rpc.QuotaFailure"
    return {"@type": kind, "violations": [{"quotaId": quota_id} for quota_id in ids]}


PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
KEY_REASON = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
}
BAD = "invalid_request_error"
TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."
OVER_QUOTA = "You exceeded your current quota, please check your plan and billing details."

REFUSALS: list[tuple[str, int, dict[str, Any], type[ProviderError]]] = [
    # OpenAI
    (
        "openai key",
        401,
        said("Incorrect API key provided: sk-**.", BAD, "invalid_api_key"),
        AuthenticationFailed,
    ),
    (
        "openai country",
        403,
        said(
            "Country, region, or territory not supported",
            "request_forbidden",
            "unsupported_country_region_territory",
        ),
        PermissionDenied,
    ),
    (
        "openai model",
        404,
        said(
            "The model `x` does not exist or you do not have access to it.", BAD, "model_not_found"
        ),
        ModelNotFound,
    ),
    (
        "openai schema",
        400,
        said("Invalid schema for function 'f'", BAD, "invalid_function_parameters"),
        InvalidRequest,
    ),
    ("openai context", 400, said(TOO_LONG, BAD, "context_length_exceeded"), ContextWindowExceeded),
    (
        "openai policy",
        400,
        said(
            "Your request was rejected as a result of our safety system.",
            "image_generation_user_error",
            "content_policy_violation",
        ),
        ContentFiltered,
    ),
    (
        "openai flagged",
        400,
        said(
            "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            BAD,
            "invalid_prompt",
        ),
        ContentFiltered,
    ),
    (
        "openai rate",
        429,
        said(
            "Rate limit reached for gpt-4.1 on tokens per min: Limit 3. Try again in 3.89s.",
            "tokens",
            "rate_limit_exceeded",
        ),
        RateLimited,
    ),
    (
        "openai day",
        429,
        said(
            "Rate limit reached for gpt-4.1 on requests per day: Limit 2. Try again in 7m12s.",
            "requests",
            "rate_limit_exceeded",
        ),
        QuotaExhausted,
    ),
    (
        "openai too large",
        429,
        said(
            "Request too large for gpt-4 on tokens per min (TPM): Limit 10000, Requested 12000.",
            "tokens",
            "rate_limit_exceeded",
        ),
        ContextWindowExceeded,
    ),
    (
        "openai quota",
        429,
        said(OVER_QUOTA, "insufficient_quota", "insufficient_quota"),
        QuotaExhausted,
    ),
    (
        "openai billing",
        429,
        said("Your account is not active.", "billing_not_active", "billing_not_active"),
        QuotaExhausted,
    ),
    (
        "openai hard limit",
        400,
        said("Billing hard limit has been reached", BAD, "billing_hard_limit_reached"),
        QuotaExhausted,
    ),
    (
        "openai server",
        500,
        said("The server had an error while processing your request.", "server_error"),
        ProviderUnavailable,
    ),
    (
        "openai overloaded",
        503,
        said("The engine is currently overloaded, please try again later.", "server_error"),
        ProviderUnavailable,
    ),
    # Anthropic
    (
        "anthropic key",
        401,
        at_anthropic("authentication_error", "invalid x-api-key"),
        AuthenticationFailed,
    ),
    (
        "anthropic permission",
        403,
        at_anthropic(
            "permission_error",
            "Your API key does not have permission to use the specified resource.",
        ),
        PermissionDenied,
    ),
    (
        "anthropic model",
        404,
        at_anthropic("not_found_error", "model: nothing-like-this"),
        ModelNotFound,
    ),
    (
        "anthropic context",
        400,
        at_anthropic(BAD, "prompt is too long: 3333404 tokens > 200000 maximum"),
        ContextWindowExceeded,
    ),
    (
        "anthropic sum",
        400,
        at_anthropic(
            BAD, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"
        ),
        ContextWindowExceeded,
    ),
    (
        "anthropic credit",
        400,
        at_anthropic(BAD, "Your credit balance is too low to access the Anthropic API."),
        QuotaExhausted,
    ),
    (
        "anthropic cap",
        400,
        at_anthropic(
            BAD,
            "You have reached your specified API usage limits.",
        ),
        QuotaExhausted,
    ),
    (
        "anthropic spend",
        429,
        at_anthropic("rate_limit_error", "enforced_spend_limit_reached"),
        QuotaExhausted,
    ),
    (
        "anthropic spend code",
        429,
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "Slow down",
                "details": {"error_code": "enforced_spend_limit_reached"},
            },
        },
        QuotaExhausted,
    ),
    (
        "anthropic filter",
        400,
        at_anthropic(BAD, "Output blocked by content filtering policy"),
        ContentFiltered,
    ),
    (
        "anthropic rate",
        429,
        at_anthropic(
            "rate_limit_error", "Number of requests has exceeded your per-minute rate limit"
        ),
        RateLimited,
    ),
    (
        "anthropic size",
        413,
        at_anthropic("request_too_large", "Request exceeds the maximum size"),
        InvalidRequest,
    ),
    (
        "anthropic overloaded",
        529,
        at_anthropic("overloaded_error", "Overloaded"),
        ProviderUnavailable,
    ),
    (
        "anthropic server",
        500,
        at_anthropic("api_error", "Internal server error"),
        ProviderUnavailable,
    ),
    # Google
    (
        "google key",
        400,
        at_google(
            400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", KEY_REASON
        ),
        AuthenticationFailed,
    ),
    (
        "google expired",
        400,
        at_google(
            400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", KEY_REASON
        ),
        AuthenticationFailed,
    ),
    (
        "google permission",
        403,
        at_google(
            403,
            "PERMISSION_DENIED",
            "Generative Language API has not been used in project 1 before or it is disabled.",
        ),
        PermissionDenied,
    ),
    (
        "google model",
        404,
        at_google(404, "NOT_FOUND", "models/x is not found for API version v1beta"),
        ModelNotFound,
    ),
    (
        "google context",
        400,
        at_google(
            400,
            "INVALID_ARGUMENT",
            "The input token count (2) exceeds the maximum number of tokens allowed (1).",
        ),
        ContextWindowExceeded,
    ),
    (
        "google argument",
        400,
        at_google(400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name "x".'),
        InvalidRequest,
    ),
    (
        "google minute",
        429,
        at_google(429, "RESOURCE_EXHAUSTED", OVER_QUOTA, quota(PER_MINUTE)),
        RateLimited,
    ),
    (
        "google day",
        429,
        at_google(429, "RESOURCE_EXHAUSTED", OVER_QUOTA, quota(PER_DAY)),
        QuotaExhausted,
    ),
    (
        "google both",
        429,
        at_google(429, "RESOURCE_EXHAUSTED", OVER_QUOTA, quota(PER_MINUTE, PER_DAY)),
        QuotaExhausted,
    ),
    (
        "google bare",
        429,
        at_google(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        RateLimited,
    ),
    (
        "google overloaded",
        503,
        at_google(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        ProviderUnavailable,
    ),
    (
        "google deadline",
        504,
        at_google(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
        ProviderUnavailable,
    ),
    (
        "google internal",
        500,
        at_google(500, "INTERNAL", "An internal error has occurred."),
        ProviderUnavailable,
    ),
    # Cohere
    (
        "cohere key",
        401,
        {"id": "1", "message": "Incorrect API key provided: ****."},
        AuthenticationFailed,
    ),
    ("cohere token", 401, {"message": "invalid api token"}, AuthenticationFailed),
    (
        "cohere model",
        404,
        {"message": "model 'x' not found, make sure the correct model ID was used"},
        ModelNotFound,
    ),
    (
        "cohere minute",
        429,
        {"message": "You are using a Trial key, which is limited to 10 API calls / minute."},
        RateLimited,
    ),
    (
        "cohere month",
        429,
        {"message": "You are using a Trial key, which is limited to 1000 API calls / month."},
        QuotaExhausted,
    ),
    (
        "cohere context",
        400,
        {"message": "too many tokens: size limit exceeded by 11326 tokens."},
        ContextWindowExceeded,
    ),
    (
        "cohere request",
        400,
        {"message": "invalid request: message must be at least 1 token long"},
        InvalidRequest,
    ),
    (
        "cohere server",
        500,
        {"message": "internal server error, this has been reported to our developers."},
        ProviderUnavailable,
    ),
    ("cohere capacity", 499, {"message": "request cancelled"}, InvalidRequest),
    # Mistral
    ("mistral key", 401, {"message": "Unauthorized", "request_id": "1"}, AuthenticationFailed),
    ("mistral model", 400, at_mistral("Invalid model: x", "invalid_model", "1500"), ModelNotFound),
    (
        "mistral context",
        400,
        at_mistral("Prompt contains 40000 tokens and 0 draft tokens, too large for model"),
        ContextWindowExceeded,
    ),
    (
        "mistral field",
        422,
        at_mistral(
            {"detail": [{"loc": ["body", "temperature"], "msg": "Input should be less than 1.5"}]}
        ),
        InvalidRequest,
    ),
    (
        "mistral capacity",
        429,
        at_mistral("Service tier capacity exceeded for this model.", code="3505"),
        RateLimited,
    ),
    ("mistral rate", 429, {"message": "Requests rate limit exceeded"}, RateLimited),
    (
        "mistral down",
        503,
        at_mistral("Service unavailable.", "internal_server_error", "3800"),
        ProviderUnavailable,
    ),
    # vLLM, llama.cpp, text-generation-inference
    ("vllm context", 400, at_mistral(TOO_LONG, "BadRequestError", 400), ContextWindowExceeded),
    (
        "vllm prompt",
        400,
        said(
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
            "BadRequestError",
            400,
        ),
        ContextWindowExceeded,
    ),
    (
        "vllm model",
        404,
        at_mistral("The model `x` does not exist.", "NotFoundError", 404),
        ModelNotFound,
    ),
    (
        "vllm field",
        400,
        at_mistral("[{'type': 'extra_forbidden', 'loc': ('body', 'x')}]", "BadRequestError", 400),
        InvalidRequest,
    ),
    (
        "llama.cpp context",
        400,
        said(
            "the request exceeds the available context size, try increasing it",
            "exceed_context_size_error",
            400,
            n_prompt_tokens=900,
            n_ctx=512,
        ),
        ContextWindowExceeded,
    ),
    (
        "llama.cpp loading",
        503,
        said("Loading model", "unavailable_error", 503),
        ProviderUnavailable,
    ),
    (
        "llama.cpp key",
        401,
        said("Invalid API Key", "authentication_error", 401),
        AuthenticationFailed,
    ),
    (
        "tgi inputs",
        422,
        {
            "error": "Input validation error: `inputs` must have less than 1024 tokens.",
            "error_type": "validation",
        },
        ContextWindowExceeded,
    ),
    (
        "tgi overloaded",
        429,
        {"error": "Model is overloaded", "error_type": "overloaded"},
        ProviderUnavailable,
    ),
    # OpenRouter
    ("openrouter key", 401, said("Missing Authentication header", code=401), AuthenticationFailed),
    (
        "openrouter credits",
        402,
        said("Insufficient credits. Add more using https://openrouter.ai/credits", code=402),
        QuotaExhausted,
    ),
    (
        "openrouter moderation",
        403,
        said('openai/x requires moderation. Your input was flagged for "violence".', code=403),
        ContentFiltered,
    ),
    ("openrouter model", 400, said("x/y is not a valid model ID", code=400), ModelNotFound),
    (
        "openrouter free",
        429,
        said("Rate limit exceeded: free-models-per-min. ", code=429),
        RateLimited,
    ),
    ("openrouter upstream", 502, said("Provider returned error", code=502), ProviderUnavailable),
    ("openrouter timeout", 408, said("Request timed out", code=408), ProviderTimeout),
    # Groq
    (
        "groq minute",
        429,
        said(
            "Rate limit reached for model `x` on tokens per minute: Limit 1. Try again in 5.2s.",
            "tokens",
            "rate_limit_exceeded",
        ),
        RateLimited,
    ),
    (
        "groq day",
        429,
        said(
            "Rate limit reached for model `x` on tokens per day: Limit 1. Try again in 7m12s.",
            "tokens",
            "rate_limit_exceeded",
        ),
        QuotaExhausted,
    ),
    (
        "groq too large",
        413,
        said(
            "Request too large for model `x` on tokens per minute (TPM): Limit 6000",
            "tokens",
            "rate_limit_exceeded",
        ),
        ContextWindowExceeded,
    ),
    (
        "groq gone",
        400,
        said(
            "The model `x` has been decommissioned and is no longer supported.",
            BAD,
            "model_decommissioned",
        ),
        ModelNotFound,
    ),
    (
        "groq tools",
        400,
        said("Tool choice is required, but model did not call a tool", BAD, "tool_use_failed"),
        InvalidRequest,
    ),
    (
        "groq capacity",
        498,
        said("Flex tier capacity exceeded", "internal_server_error", "capacity_exceeded"),
        ProviderUnavailable,
    ),
    # Together
    (
        "together key",
        401,
        said("Invalid API key provided.", BAD, "invalid_api_key"),
        AuthenticationFailed,
    ),
    (
        "together context",
        422,
        said(
            "`inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000",
            BAD,
        ),
        ContextWindowExceeded,
    ),
    (
        "together model",
        404,
        said("Unable to access model x.", BAD, "model_not_available"),
        ModelNotFound,
    ),
    (
        "together busy",
        503,
        said("The server is overloaded or not ready yet.", "service_unavailable"),
        ProviderUnavailable,
    ),
    # DeepSeek
    ("deepseek balance", 402, said("Insufficient Balance", "unknown_error", BAD), QuotaExhausted),
    ("deepseek model", 400, said("Model Not Exist", BAD, BAD), ModelNotFound),
    ("deepseek context", 400, said(TOO_LONG, BAD, BAD), ContextWindowExceeded),
    ("deepseek risk", 400, said("Content Exists Risk", BAD, BAD), ContentFiltered),
    # xAI, Moonshot, DashScope, Cloudflare
    (
        "xai prompt",
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "This model's maximum prompt length is 131072 tokens.",
        },
        ContextWindowExceeded,
    ),
    (
        "xai credits",
        403,
        {
            "code": "The caller does not have permission",
            "error": "Your team has used all available credits.",
        },
        QuotaExhausted,
    ),
    (
        "moonshot quota",
        429,
        said("Your account is suspended", "exceeded_current_quota_error"),
        QuotaExhausted,
    ),
    (
        "moonshot busy",
        429,
        said("The engine is currently overloaded", "engine_overloaded_error"),
        ProviderUnavailable,
    ),
    (
        "dashscope length",
        400,
        said("Range of input length should be [1, 30720]", BAD, "invalid_parameter_error"),
        ContextWindowExceeded,
    ),
    (
        "dashscope inspection",
        400,
        said(
            "Output data may contain inappropriate content.",
            "data_inspection_failed",
            "data_inspection_failed",
        ),
        ContentFiltered,
    ),
    (
        "cloudflare neurons",
        429,
        said("you have used up your daily free allocation of 10,000 neurons"),
        QuotaExhausted,
    ),
    # Azure
    (
        "azure filter",
        400,
        said(
            "The response was filtered due to the prompt triggering content management policy.",
            None,
            "content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
        ContentFiltered,
    ),
    (
        "azure rate",
        429,
        said(
            "Requests have exceeded call rate limit. Please retry after 26 seconds.",
            code="429",
        ),
        RateLimited,
    ),
    (
        "azure reached",
        429,
        said("Your requests have exceeded rate limit.", code="RateLimitReached"),
        RateLimited,
    ),
    (
        "azure deployment",
        404,
        said("The API deployment for this resource does not exist.", code="DeploymentNotFound"),
        ModelNotFound,
    ),
    (
        "azure key",
        401,
        said("Access denied due to invalid subscription key or wrong API endpoint.", code="401"),
        AuthenticationFailed,
    ),
]


@pytest.mark.parametrize(
    ("status", "body", "expected"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_a_refusal_is_known_by_its_status_and_its_words(
    status: int, body: dict[str, Any], expected: type[ProviderError]
) -> None:
    """One row for each shape seen at a provider, a gateway or a server."""
    error = COHERE.error(body) or WireError("")

    assert expected is error_class(status, error)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequest),
        (401, AuthenticationFailed),
        (402, QuotaExhausted),
        (403, PermissionDenied),
        (404, ModelNotFound),
        (405, InvalidRequest),
        (408, ProviderTimeout),
        (409, InvalidRequest),
        (413, InvalidRequest),
        (418, InvalidRequest),
        (422, InvalidRequest),
        (429, RateLimited),
        (498, ProviderUnavailable),
        (500, ProviderUnavailable),
        (502, ProviderUnavailable),
        (503, ProviderUnavailable),
        (504, ProviderUnavailable),
        (520, ProviderUnavailable),
        (529, ProviderUnavailable),
        (599, ProviderUnavailable),
        (302, ProviderUnavailable),
    ],
)
def test_without_words_the_status_decides(status: int, expected: type[ProviderError]) -> None:
    """An HTML page, an empty body."""
    assert expected is error_class(status, NOTHING)


ECHOES = (
    "how many rivers per day",
    "what is a context window",
    "define overloaded function",
    "what does rate_limit mean",
    "moderation of a debate",
    "prompt is too long",
    "an invalid_api_key",
)


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_words_of_the_prompt_do_not_change_the_kind_of_another_status(
    status: int, echo: str
) -> None:
    """Providers repeat what was asked; a 500 that repeats it is still a 500."""
    error = WireError(f"failed on input: {echo!r}")
    allowed = {error_class(status, NOTHING)}
    if "api_key" in echo and status < 500:
        allowed.add(AuthenticationFailed)

    assert error_class(status, error) in allowed


@pytest.mark.parametrize("echo", ["how many rivers per day", "overloaded", "rate_limit"])
def test_a_bad_request_stays_one_whatever_it_repeats(echo: str) -> None:
    """Neither retried for minutes nor taken for a spent account."""
    assert error_class(400, WireError(f"Invalid value: {echo!r}")) is InvalidRequest


@given(st.integers(300, 599), st.text(max_size=60), st.text(max_size=60))
def test_every_refusal_is_some_error(status: int, code: str, message: str) -> None:
    """A server's fault is never called the caller's."""
    found = error_class(status, WireError(message, code.lower()))

    assert issubclass(found, ProviderError)
    assert found is not ProviderError
    if status >= 500:
        assert found is ProviderUnavailable


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (at_anthropic("overloaded_error", "Overloaded"), 529),
        (at_anthropic("rate_limit_error", "slow down"), 429),
        (at_anthropic(BAD, "no"), 400),
        (at_anthropic("authentication_error", "no"), 401),
        (at_anthropic("permission_error", "no"), 403),
        (at_anthropic("not_found_error", "no"), 404),
        (at_anthropic("timeout_error", "no"), 504),
        (at_anthropic("api_error", "Internal server error"), 500),
        (said("quota", "insufficient_quota", "insufficient_quota"), 429),
        (said("no", code=402), 402),
        (said("no", code="503"), 503),
        (said("no", status_code=413), 413),
        (said("no", code=200), 500),
        (said("no", code=True), 500),
        (said("the request exceeds the available context size", "server_error"), 400),
        (said("Rate limit: tokens per min"), 429),
        (at_google(429, "RESOURCE_EXHAUSTED", "no"), 429),
        (at_google(0, "UNAVAILABLE", "no"), 503),
        ({"error": "the upstream broke"}, 500),
        ({"error": "no", "code": 400}, 400),
        (at_mistral("no", "BadRequestError"), 400),
        ({"message": "You are limited to 10 API calls / minute"}, 429),
    ],
)
def test_an_error_inside_a_success_has_the_status_it_stands_for(
    body: dict[str, Any], status: int
) -> None:
    """In its own number, or by its words."""
    error = COHERE.error(body)

    assert error is not None
    assert status_of(error) == status


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (said("plain words"), "plain words"),
        ({"error": "plain words"}, "plain words"),
        (at_mistral("plain words"), "plain words"),
        (
            at_mistral({"detail": [{"loc": ["body", "top_p"], "msg": "too big"}]}),
            "body.top_p: too big",
        ),
        (at_mistral({"detail": [{"loc": ["x"], "msg": "one"}, {"msg": "two"}]}), "x: one; two"),
        (said(""), "the provider gave no reason"),
        ({"error": {"message": {"nothing": "readable"}}}, "the provider gave no reason"),
        ({"type": "error", "message": "plain words"}, "plain words"),
    ],
)
def test_the_reason_is_found_wherever_it_stands(body: dict[str, Any], message: str) -> None:
    """A string, an object, a list of what is wrong with each field."""
    error = read_error(body)

    assert error is not None
    assert error.message == message


@pytest.mark.parametrize(
    "body",
    [{}, {"error": None}, {"error": ""}, {"error": {}}, {"choices": []}, {"message": {"a": 1}}],
)
def test_an_answer_is_no_error(body: dict[str, Any]) -> None:
    """Some hosts send the field with nothing in it."""
    assert COHERE.error(body) is None


DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
WAITS: list[tuple[dict[str, str], float | None]] = [
    ({"retry-after": "12"}, 12),
    ({"retry-after": " 12 "}, 12),
    ({"retry-after": "0"}, 0),
    ({"retry-after": "0.5"}, 0.5),
    ({"retry-after": "-5"}, 0),
    ({"retry-after": "1000000000"}, 1e9),
    ({"retry-after": "48s"}, 48),
    ({"retry-after": "6m0s"}, 360),
    ({"retry-after": "1h2m3.5s"}, 3723.5),
    ({"retry-after": "120ms"}, 0.12),
    ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT", "date": DATE}, 30),
    ({"retry-after": "Sunday, 22-Nov-26 12:00:30 GMT", "date": DATE}, 30),
    ({"retry-after": "Sun Nov 22 12:00:30 2026", "date": DATE}, 30),
    ({"retry-after": "Sun, 22 Nov 2026 13:00:30 +0100", "date": DATE}, 30),
    ({"retry-after": "2026-11-22T12:00:30Z", "date": DATE}, 30),
    ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT", "date": DATE}, 0),
    ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT", "date": "nonsense"}, None),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "-3"}, 0),
    ({"retry-after-ms": "soon"}, None),
    ({"retry-after-ms": "inf"}, None),
    ({"retry-after": "2", "retry-after-ms": "1900"}, 2),
    ({"retry-after": "soon", "retry-after-ms": "1900"}, 1.9),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8.64s"}, 8.64),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360),
    ({"x-ratelimit-remaining-tokens": "9", "x-ratelimit-reset-tokens": "6m0s"}, None),
    ({"x-ratelimit-remaining-tokens": "0"}, None),
    (
        {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "2s",
        },
        2,
    ),
    (
        {
            "date": DATE,
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:07Z",
            "anthropic-ratelimit-tokens-remaining": "16000",
            "anthropic-ratelimit-tokens-reset": "2026-11-22T12:59:59Z",
        },
        7,
    ),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after": "later"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_how_long_to_wait_is_read_from_the_headers(
    headers: dict[str, str], seconds: float | None
) -> None:
    """Every spelling that was seen, and nonsense."""
    found = retry_after_s(headers, NOTHING)

    if headers.get("date") == "nonsense":  # then our own clock is all there is
        assert found is not None
        assert found >= 0
    else:
        assert found == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Please try again in 3.89s. Visit", 3.89),
        ("Please try again in 120ms.", 0.12),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 7m12.5s.", 432.5),
        ("Please try again in 1h2m3s.", 3723),
        ("Please retry in 34.074824224s.", 34.074824224),
        ("Please retry after 26 seconds.", 26),
        ("try again in 1 second", 1),
        ("Try again in 20 Seconds", 20),
        ("Please try again later.", None),
        ("try again in a while", None),
        ("try again in 5 lifetimes", None),
        ("", None),
    ],
)
def test_how_long_to_wait_is_read_from_the_message_at_last(
    message: str, seconds: float | None
) -> None:
    """Some providers say it nowhere else."""
    assert retry_after_s({}, WireError(message)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ([{"@type": "...RetryInfo", "retryDelay": "48s"}], 48),
        ([{"x": 1}, {"retryDelay": "0.5s"}], 0.5),
        ([{"retryDelay": "-1s"}], None),
        ([{"retryDelay": 3}], None),
        ([None, "x", 3], None),
        ({"retryDelay": "48s"}, None),
        ("48s", None),
        (None, None),
    ],
)
def test_how_long_to_wait_is_read_from_googles_details(details: Any, seconds: float | None) -> None:
    """Google says it in the body."""
    assert retry_after_s({}, WireError("", details=details)) == seconds


def test_the_header_is_believed_before_the_message() -> None:
    """It is the one made for machines."""
    error = WireError("try again in 9s", details=[{"retryDelay": "8s"}])

    assert retry_after_s({"retry-after": "7"}, error) == 7
    assert retry_after_s({}, error) == 8


DURATIONS = st.one_of(
    st.text(max_size=20),
    st.text("0123456789.hms-+e_ ", max_size=20),
    st.floats().map(str),
    st.integers().map(lambda number: f"{number}s"),
    st.integers(0, 10**400).map(lambda number: f"{number}h"),
)


def is_a_wait(found: float | None) -> bool:
    return found is None or (math.isfinite(found) and found >= 0)


@given(DURATIONS)
def test_a_duration_is_never_negative_nor_endless(text: str) -> None:
    """Nor does any text make it raise."""
    assert is_a_wait(parse_duration_s(text))


@given(st.floats(0, 1e9), st.sampled_from(("", "s")))
def test_seconds_are_read_as_they_are_written(seconds: float, unit: str) -> None:
    """With or without their unit."""
    assert parse_duration_s(f"{seconds:f}{unit}") == pytest.approx(seconds, abs=1e-6)


MOMENTS = st.one_of(
    DURATIONS,
    st.datetimes().map(lambda moment: f"{moment:%a, %d %b} {moment.year} {moment:%H:%M:%S} GMT"),
    st.text("Sun,22 Nov206:GMTZ+-", max_size=30),
)
NAMES = st.sampled_from(
    (
        "retry-after",
        "retry-after-ms",
        "date",
        "x-ratelimit-reset-requests",
        "anthropic-ratelimit-tokens-reset",
    )
)


@given(
    st.dictionaries(NAMES, MOMENTS),
    st.one_of(st.text(max_size=30), DURATIONS.map(lambda text: f"try again in {text}")),
    st.recursive(
        st.one_of(st.none(), DURATIONS, st.integers()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.just("retryDelay"), inner)
        ),
    ),
)
def test_no_answer_of_a_provider_makes_a_wait_negative_or_endless(
    headers: dict[str, str], message: str, details: Any
) -> None:
    """Nor does any make reading it raise."""
    exhausted = {
        "x-ratelimit-remaining-requests": "0",
        "anthropic-ratelimit-tokens-remaining": "0",
    }

    assert is_a_wait(retry_after_s({**headers, **exhausted}, WireError(message, details=details)))


BODIES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ("error", "message", "code", "type", "details", "violations", "detail")
            ),
            inner,
        ),
    ),
)


@pytest.mark.parametrize("read", [read_error, COHERE.error])
@settings(max_examples=40)
@given(body=st.dictionaries(st.sampled_from(("error", "message", "object", "type")), BODIES))
def test_no_body_makes_reading_its_error_raise(
    read: Callable[[dict[str, Any]], WireError | None], body: dict[str, Any]
) -> None:
    """Whatever stands where words belong."""
    error = read(body)

    assert error is None or len(error.message) > 0


@pytest.mark.parametrize("violations", [True, 7, "x", {"quotaId": "x"}, [None, [], "x"], None])
def test_details_of_an_unknown_shape_are_passed_over(violations: object) -> None:
    """An error's details help to classify it; they never stand in the way."""
    body = {"error": {"message": "no", "code": 429, "details": [{"violations": violations}]}}

    found = read_error(body)

    assert found is not None
    assert found.message == "no"
