"""The door's table of litellm's exceptions is complete, and says what each one means."""

import inspect
import pickle
from typing import Any

import httpx
import pytest

import adapters
from adapters import (
    AuthenticationFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelNotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExhausted,
    StreamBroken,
    _formats,
    _litellm,
)
from adapters._call import Call
from adapters.errors import About
from adapters.types import Limits
from tests.adapters.wires import KEY


def is_error(found: object) -> bool:
    return inspect.isclass(found) and issubclass(found, Exception)


@pytest.fixture(autouse=True, scope="module")
def _through_the_door() -> None:
    """litellm is imported as the product imports it: imported bare, it downloads a price map."""
    _litellm._load()


def exceptions_of_litellm() -> list[type[Exception]]:
    """Every exception class in `litellm.exceptions`, its own and what it re-exports."""
    import litellm.exceptions

    found = inspect.getmembers(litellm.exceptions, inspect.isclass)
    return [cls for _, cls in found if issubclass(cls, Exception)]


def new_call(*, requests: int = 0) -> Call:
    return Call(
        format=_formats.OPENAI,
        limits=Limits(),
        inner=httpx.MockTransport(lambda request: httpx.Response(200)),
        streamed=False,
        about=About(provider="openai", deployment="river"),
        requests=requests,
    )


def made(name: str) -> Exception:
    """One of litellm's exceptions, as litellm makes them."""
    import litellm.exceptions

    kind = getattr(litellm.exceptions, name)
    names = inspect.signature(kind.__init__).parameters
    request = httpx.Request("POST", "https://models.example/v1")
    values: dict[str, Any] = {
        "message": "litellm.Xyz: the reason",
        "model": "m",
        "llm_provider": "openai",
        "response": httpx.Response(400, request=request),
        "request": request,
        "status_code": 500,
        "raw_response": "",
        "schema": "",
    }
    error: Exception = kind(**{key: values[key] for key in names if key in values})
    return error


def test_every_exception_of_litellm_is_in_the_table() -> None:
    """A class that a new release adds is met here first, not in production."""
    missing = [
        cls.__name__
        for cls in exceptions_of_litellm()
        if not any(base.__name__ in _litellm.ERRORS for base in cls.__mro__)
    ]

    assert missing == []


def test_the_table_names_nothing_that_litellm_does_not_have() -> None:
    """A row nobody can hit is a row nobody keeps right."""
    import litellm

    known = {cls.__name__ for cls in exceptions_of_litellm()} | set(dir(litellm))

    assert set(_litellm.ERRORS) - known == set()


def test_the_table_leads_to_errors_that_callers_know() -> None:
    """Each is public, and more than the root of the tree."""
    for error in _litellm.ERRORS.values():
        assert error is not ProviderError
        assert error.__name__ in adapters.__all__


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ContextWindowExceededError", ContextWindowExceeded),  # a BadRequestError, too
        ("ContentPolicyViolationError", ContentFiltered),
        ("PaymentRequiredError", QuotaExhausted),
        ("UnsupportedParamsError", InvalidRequest),
        ("BadRequestError", InvalidRequest),
        ("AuthenticationError", AuthenticationFailed),
        ("NotFoundError", ModelNotFound),
        ("VectorStoreSearchError", InvalidRequest),  # by what it is a kind of
        # Nothing was sent, so trying again changes nothing, whatever litellm calls it.
        ("RateLimitError", InvalidRequest),
        ("InternalServerError", InvalidRequest),
        ("APIConnectionError", InvalidRequest),
        ("Timeout", InvalidRequest),
    ],
)
def test_the_nearest_class_in_the_table_counts(name: str, expected: type[ProviderError]) -> None:
    """litellm's classes are told apart before what they are a kind of; so are their subclasses."""
    import litellm.exceptions

    kind = getattr(litellm.exceptions, name)
    newer: Any = type(f"Newer{name}", (kind,), {"__str__": lambda self: "no"})
    error = newer.__new__(newer)

    found = _litellm.explain(new_call(), error, {})

    assert type(found) is expected
    assert found.provider == "openai"
    assert found.deployment == "river"


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("x"), RecursionError("deep")])
def test_what_nobody_knows_was_wrong_with_the_request(error: Exception) -> None:
    """Nothing had been sent: what litellm could not translate is the request's fault."""
    assert type(_litellm.explain(new_call(), error, {})) is InvalidRequest


def test_after_a_request_it_is_the_answer_that_could_not_be_read() -> None:
    """The provider was asked, and the wire found no fault; so litellm could not read it."""
    found = _litellm.explain(new_call(requests=1), made("APIConnectionError"), {})

    assert type(found) is MalformedResponse
    assert found.retryable


def test_what_the_wire_said_counts_first() -> None:
    """litellm rewrites statuses and classes."""
    call = new_call(requests=1)
    call.failure = ProviderUnavailable("overloaded", status_code=529)

    assert _litellm.explain(call, made("BadRequestError"), {}) is call.failure


def test_litellms_own_words_are_taken_out() -> None:
    """Nobody here can act on advice about litellm's settings."""
    advice = ValueError(
        "litellm.UnsupportedParamsError: x is not supported. To drop these, set drop_params\n"
        "Traceback (most recent call last): ..."
    )

    message = str(_litellm.explain(new_call(), advice, {}))

    assert message == "river: UnsupportedParamsError: x is not supported."


def test_a_key_in_the_reason_is_taken_out() -> None:
    """litellm puts whole requests into some messages."""
    error = ValueError(f"could not send {{'authorization': 'Bearer {KEY}'}}")

    assert KEY not in str(_litellm.explain(new_call(), error, {"api_key": KEY}))


def test_the_drawing_of_the_tree_is_true() -> None:
    """The docstring of `adapters.errors` names every class, under its parent."""
    drawing = [
        line for line in (adapters.errors.__doc__ or "").splitlines() if line.startswith("    ")
    ]
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in drawing:
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        while above and above[-1][0] >= depth:
            above.pop()
        drawn[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))

    classes = {
        name: cls.__mro__[1].__name__
        for name, cls in vars(adapters.errors).items()
        if inspect.isclass(cls) and issubclass(cls, Exception)
    }
    assert drawn == classes


@pytest.mark.parametrize("name", [n for n in adapters.__all__ if is_error(getattr(adapters, n))])
def test_an_error_says_who_and_what_to_do(name: str) -> None:
    """Its parts are attributes; its text begins with the deployment's name."""
    kind = getattr(adapters, name)
    error = kind("the reason", provider="openai", deployment="river")

    assert str(error) == "river: the reason"
    assert error.status_code == kind.default_status_code
    assert error.retryable is kind.default_retryable
    assert error.retry_after_s is None
    assert str(kind("the reason", provider="openai")) == "openai: the reason"
    assert str(kind("the reason")) == "the reason"


def test_an_error_keeps_what_the_provider_said() -> None:
    """529 stays 529, and 0 seconds are not "not said"."""
    error = ProviderUnavailable("no", status_code=529, retryable=False, retry_after_s=0.0)

    assert (error.status_code, error.retryable, error.retry_after_s) == (529, False, 0.0)


def test_errors_cross_a_process_boundary_whole() -> None:
    """Batches run in several processes."""
    error = StreamBroken("cut", partial_text="The N", provider="openai", deployment="river")

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.__dict__) == (StreamBroken, str(error), error.__dict__)
