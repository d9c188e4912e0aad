"""Every fault of the simulator against every adapter, plain and streamed: expected class, got.

    python tests/adapters/test_faults.py

prints the whole table.
"""

import asyncio
import sys
from dataclasses import dataclass, replace

import pytest

from adapters import (
    Completion,
    CompletionRequest,
    Limits,
    LLMProvider,
    ModelConfig,
    ProviderError,
    collect,
    create_adapter,
)
from orchestrator.simulator import FAULTS, Simulator

MODELS = {
    LLMProvider.OPENAI: "gpt-4.1-mini",
    LLMProvider.ANTHROPIC: "claude-haiku-4-5",
    LLMProvider.GOOGLE: "gemini-2.5-flash",
    LLMProvider.COHERE: "command-a-03-2025",
    LLMProvider.MISTRAL: "mistral-small-latest",
    LLMProvider.CUSTOM: "qwen3",
}
PATIENT = Limits(
    connect_s=5, first_content_s=30, gap_s=30, total_s=30, body_bytes=2**21, event_bytes=2**20
)
LIMITS = {
    **dict.fromkeys(
        ("stall0", "stallhead", "stallopen", "stallmid"), replace(PATIENT, total_s=0.4)
    ),
    "drip": replace(PATIENT, total_s=0.5),
    "pingdrip": replace(PATIENT, first_content_s=0.4, total_s=0.6),
    "tinyevents": replace(PATIENT, events=300),
}
SIZES = {"hugeline": 2, "big": 3, "tinyevents": 400, "long": 3000}  # small enough to be quick
QUESTION = CompletionRequest(
    messages=[{"role": "user", "content": "Which river is the longest, and why?"}], seed=1
)
WITH_TOOLS = CompletionRequest(
    messages=[{"role": "user", "content": "What is the weather in Paris?"}],
    tools=[
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather in a city",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                },
            },
        }
    ],
    tool_choice="required",
    seed=1,
)
PREFILLED = CompletionRequest(
    messages=[*QUESTION.messages, {"role": "assistant", "content": "The longest river is"}], seed=1
)
REQUESTS = {"toolcut": WITH_TOOLS, "prefill400": PREFILLED}


# The provider may have worked for these; a refusal costs nothing, unless it comes amid an answer.
MAYBE_BILLED = {
    *("ConnectionFailed", "ProviderTimeout", "StreamBroken", "EmptyAnswer", "MalformedResponse")
}
AMID_AN_ANSWER = {"errevent", "antherr"}


@dataclass(frozen=True)
class Expected:
    """What a fault comes to: an error's class, or an answer's finish reason.

    `estimated` says that the usage is ours and flagged. `wait_s` is retry_after_s.
    """

    plain: str
    streamed: str
    estimated: bool = False
    wait_s: float | None = None
    status: int | None = None


def _both(outcome: str, **more: object) -> Expected:
    return Expected(outcome, outcome, **more)  # type: ignore[arg-type]  # forwarded by name


_GOOD = _both("stop")
_FLAGGED = _both("stop", estimated=True)
_REDIRECTED = "ProviderUnavailable"
EXPECTED: dict[str, Expected] = {
    # the connection
    **dict.fromkeys(("cut0", "cuthalfhead"), _both("ConnectionFailed")),
    "cuthead": Expected("StreamBroken", "ConnectionFailed"),
    **dict.fromkeys(
        ("stall0", "stallhead", "stallopen", "stallmid", "drip", "pingdrip"),
        _both("ProviderTimeout"),
    ),
    **dict.fromkeys(("cutmid", "cutmidclose"), _both("StreamBroken")),
    **dict.fromkeys(("splitchunk", "oddtext", "crlf", "bom"), _GOOD),
    # streams that lie
    **dict.fromkeys(
        ("endnofinish", "anthcut", "gemcut", "donenofinish", "badjson"), _both("StreamBroken")
    ),
    **dict.fromkeys(("errevent", "antherr"), _both("ProviderUnavailable")),
    "errfirst": _both("RateLimited", status=429),
    **dict.fromkeys(("dupchunks", "unknownfields", "foreignid"), _GOOD),
    # nothing in it
    **dict.fromkeys(("empty", "nochoices", "nullcontent", "blank"), _both("EmptyAnswer")),
    # not what the protocol says
    "html200": _both("MalformedResponse"),
    **dict.fromkeys(
        ("halfjson", "arrayjson", "deepjson"), Expected("MalformedResponse", "StreamBroken")
    ),
    "errin200": _both("ProviderUnavailable"),
    **dict.fromkeys(("hugeline", "big", "tinyevents", "long"), _both("MalformedResponse")),
    # errors
    "e400": _both("InvalidRequest", status=400),
    "e400ctx": _both("ContextWindowExceeded", status=400),
    "filter400": _both("ContentFiltered", status=400),
    "prefill400": _both("InvalidRequest", status=400),
    **dict.fromkeys(("e401", "echo401"), _both("AuthenticationFailed")),
    "e402": _both("QuotaExhausted", status=402),
    "e403": _both("PermissionDenied", status=403),
    "e404": _both("ModelNotFound"),
    "e413": _both("InvalidRequest", status=413),
    "e429": _both("RateLimited", status=429),
    "e429quota": _both("QuotaExhausted", status=429),
    "e500": _both("ProviderUnavailable", status=500),
    **dict.fromkeys(("e502", "e502html"), _both("ProviderUnavailable", status=502)),
    **dict.fromkeys(("e503", "e503html"), _both("ProviderUnavailable", status=503)),
    "e504": _both("ProviderUnavailable", status=504),
    "e529": _both("ProviderUnavailable", status=529),
    # retry-after, spelled in many ways
    "e429-seconds": _both("RateLimited", wait_s=2),
    "e429-float": _both("RateLimited", wait_s=1.5),
    "e429-zero": _both("RateLimited", wait_s=0),
    "e429-date": _both("RateLimited", wait_s=2),
    "e429-past": _both("RateLimited", wait_s=0),
    "e429-ms": _both("RateLimited", wait_s=1.5),
    "e429-duration": _both("RateLimited", wait_s=360),
    "e429-negative": _both("RateLimited", wait_s=0),
    "e429-huge": _both("RateLimited", wait_s=10**9),
    "e429-words": _both("RateLimited", wait_s=3.89),
    **dict.fromkeys(("e429-reset", "e429-garbage", "e429-none"), _both("RateLimited")),
    # redirects to another host
    "redir3": _both(_REDIRECTED, status=307),
    **{f"redir{code}": _both(_REDIRECTED, status=code) for code in (301, 302, 307, 308)},
    # usage
    **dict.fromkeys(
        ("nousage", "zerousage", "lowusage", "negusage", "strusage", "hugeusage"), _FLAGGED
    ),
    **dict.fromkeys(("doubleusage", "usagex"), _GOOD),
    # the answer
    "wrongmodel": _GOOD,
    "length": _both("length"),
    "filter": _both("content_filter"),
    "toolcut": _both("MalformedResponse"),
    **dict.fromkeys(("refuse", "inject"), _GOOD),
    # the rest of an answer begun
    **dict.fromkeys(("overlap", "startover", "anew"), _GOOD),
}


async def call(
    simulator: Simulator, provider: LLMProvider, fault: str, *, streamed: bool
) -> Completion | ProviderError:
    """One call that meets a fault: the completion, or the error it raised."""
    config = ModelConfig(
        provider=provider,
        model=f"{MODELS[provider]}--{fault}{SIZES.get(fault, '')}",
        api_key="simulated-key",
        api_base=simulator.base_url(provider),
    )
    adapter = create_adapter(config, deployment="the-deployment")
    request, limits = REQUESTS.get(fault, QUESTION), LIMITS.get(fault, PATIENT)
    try:
        if streamed:
            return await collect(adapter.stream(request, limits=limits))
        return await adapter.complete(request, limits=limits)
    except ProviderError as error:
        return error
    finally:
        await adapter.aclose()


def outcome(got: Completion | ProviderError) -> str:
    """A class of error, or a finish reason."""
    return type(got).__name__ if isinstance(got, ProviderError) else got.finish_reason


def forms(fault: str) -> list[tuple[LLMProvider, bool]]:
    """The providers whose answers can suffer this fault, and whether the stream can."""
    return [
        (provider, streamed)
        for provider in LLMProvider
        for streamed in (False, True)
        if FAULTS[fault].applies(provider, streamed=streamed)
    ]


async def results(fault: str) -> dict[tuple[LLMProvider, bool], Completion | ProviderError]:
    """What every adapter makes of a fault, all called at once."""
    async with Simulator() as simulator:
        found = await asyncio.gather(
            *(call(simulator, p, fault, streamed=streamed) for p, streamed in forms(fault))
        )
    return dict(zip(forms(fault), found, strict=True))


def test_every_fault_of_the_simulator_has_an_expected_outcome() -> None:
    """A fault added to the simulator must be judged here."""
    assert set(EXPECTED) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_has_its_true_class_in_every_wire_format(fault: str) -> None:
    """Every provider, plain and streamed: the expected class, status, wait, flag, and bill."""
    expected = EXPECTED[fault]

    got = await results(fault)

    assert got
    for (provider, streamed), result in got.items():
        where = f"{provider} {'stream' if streamed else 'plain'}: {result}"
        assert outcome(result) == (expected.streamed if streamed else expected.plain), where
        if isinstance(result, ProviderError):
            assert (result.provider, result.deployment) == (provider, "the-deployment"), where
            assert expected.status in (None, result.status_code) or fault == "e404", where
            is_billed = outcome(result) in MAYBE_BILLED or fault in AMID_AN_ANSWER
            assert result.maybe_billed is is_billed, where
            if expected.wait_s is not None:
                assert result.retry_after_s == pytest.approx(expected.wait_s, abs=1.1), where
        else:
            assert result.usage.estimated is expected.estimated, where
            assert result.usage.completion_tokens >= 0, where


async def test_an_echoed_key_is_in_no_message() -> None:
    """A provider that repeats the key does not make us repeat it."""
    for result in (await results("echo401")).values():
        assert "simulated-key" not in str(result)
        assert "***" in str(result)


async def _print_table() -> int:
    wrong = 0
    print(f"{'fault':16}{'provider':11}{'form':8}{'expected':24}got")
    for fault, expected in EXPECTED.items():
        for (provider, streamed), result in (await results(fault)).items():
            wanted = expected.streamed if streamed else expected.plain
            wrong += outcome(result) != wanted
            form = "stream" if streamed else "plain"
            status = getattr(result, "status_code", "")
            print(f"{fault:16}{provider:11}{form:8}{wanted:24}{outcome(result)} {status}")
    print(f"{wrong} rows differ")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, asyncio.run(_print_table())))
