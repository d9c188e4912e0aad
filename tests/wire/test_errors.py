"""What an error is over the wire: every class has its row, and says no more than it may."""

from collections.abc import Iterator

import pytest

from adapters import errors as provider
from orchestrator import errors
from orchestrator.wire.errors import _ROWS, UNFORESEEN, Refused, fault_of


def all_of(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    """A class and whatever comes from it, of the two modules that errors are drawn in."""
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ in (provider.__name__, errors.__name__):
            yield from all_of(one)


EVERY = sorted(
    {*all_of(provider.ProviderError), *all_of(errors.OrchestratorError)},
    key=lambda one: one.__name__,
)
MADE: dict[type[BaseException], BaseException] = {
    errors.ConfigError: errors.ConfigError(["what is wrong"]),
}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_class_of_errors_has_a_row_of_its_own(kind: type[BaseException]) -> None:
    """None is told by accident, in the words of its base."""
    assert kind in _ROWS


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_is_an_openai_error_body_with_a_status(kind: type[BaseException]) -> None:
    """Four fields, all of them there, and a status that means an error."""
    told = fault_of(MADE.get(kind) or kind("what is wrong"))

    assert 400 <= told.status <= 599
    assert told.body["error"] == {
        "message": "what is wrong",
        "type": told.kind,
        "param": told.param,
        "code": told.code,
    }
    assert told.code not in (None, UNFORESEEN.code)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_no_caller_is_told_to_repeat_what_is_its_own_fault(kind: type[BaseException]) -> None:
    """`x-should-retry: false` goes with every 4xx but a rate limit."""
    told = fault_of(MADE.get(kind) or kind("what is wrong"))
    is_final = told.headers.get("x-should-retry") == "false"

    if told.status < 500 and told.code not in ("rate_limit_exceeded", "provider_error"):
        assert is_final
    if told.code == "rate_limit_exceeded":
        assert not is_final


@pytest.mark.parametrize(
    ("status", "told"), [(529, 529), (503, 503), (307, 502), (0, 502), (600, 502)]
)
def test_a_status_that_is_no_error_is_a_bad_gateway(status: int, told: int) -> None:
    """The provider's own status stays, 529 too; a redirect is none."""
    assert fault_of(provider.ProviderUnavailable("down", status_code=status)).status == told


@pytest.mark.parametrize(
    ("wait_s", "told"), [(None, None), (0.0, "1"), (0.2, "1"), (1.5, "2"), (40.0, "40")]
)
def test_a_wait_is_told_in_whole_seconds_and_never_nought(
    wait_s: float | None, told: str | None
) -> None:
    """`retry-after`, rounded up."""
    assert (
        fault_of(provider.RateLimited("x", retry_after_s=wait_s)).headers.get("retry-after") == told
    )
    assert (
        fault_of(errors.BreakerOpen("x", retry_after_s=wait_s)).headers.get("retry-after") == told
    )


def test_an_error_that_nobody_foresaw_tells_nothing_of_itself() -> None:
    """Its words may hold anything."""
    assert fault_of(KeyError("sk-secret")) is UNFORESEEN


def test_a_refusal_says_which_field_and_with_which_status() -> None:
    """As it was raised."""
    refused = Refused("no", status=413, param="n", code="c", kind="k", headers={"allow": "GET"})
    told = fault_of(refused)

    assert (told.status, told.param, told.code, told.kind) == (413, "n", "c", "k")
    assert told.headers == {"allow": "GET"}
