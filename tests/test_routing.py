"""The order of a route's deployments, whatever the strategy, and what it is decided by."""

from collections import Counter
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import RouteConfig
from orchestrator.routing import STRATEGIES, Candidate, Latencies, order
from tests.counting import calls_of

NAMES = ("a", "b", "c", "d")


def asked(strategy: str, *candidates: Candidate, seed: int = 1) -> str:
    return "".join(order(strategy, candidates, Random(seed)))


def firsts(strategy: str, *candidates: Candidate, calls: int = 4000) -> Counter[str]:
    rng = Random(5)
    return Counter(order(strategy, candidates, rng)[0] for _ in range(calls))


candidates = st.lists(st.sampled_from(NAMES), unique=True, min_size=1).flatmap(
    lambda names: st.tuples(
        *(
            st.builds(
                Candidate,
                name=st.just(name),
                price_nanousd=st.none() | st.integers(0, 3),
                first_content_s=st.none() | st.sampled_from([0.1, 0.2]),
                in_flight=st.integers(0, 2),
                weight=st.floats(1e-9, 1e9),
                is_ready=st.booleans(),
            )
            for name in names
        )
    )
)


def test_every_strategy_of_the_configuration_is_there() -> None:
    """And no other: what can be written is what can be done."""
    assert set(get_args(RouteConfig.model_fields["strategy"].annotation)) == set(STRATEGIES)


@given(strategy=st.sampled_from(sorted(STRATEGIES)), models=candidates, seed=st.integers(0, 9))
def test_nobody_is_left_out_and_the_ready_come_first(
    strategy: str, models: tuple[Candidate, ...], seed: int
) -> None:
    """A deployment that is not ready goes to the end, not away; the fallback stays in order."""
    spare = [Candidate(name="x", is_ready=False), Candidate(name="y"), Candidate(name="z")]

    names = order(strategy, models, Random(seed), fallback=spare)

    ready = {one.name for one in (*models, *spare) if one.is_ready}
    assert sorted(names) == sorted([*(one.name for one in models), "x", "y", "z"])
    assert set(names[: len(ready)]) == ready
    assert names[len(ready) - 2 : len(ready)] == ["y", "z"]
    assert names[-1] == "x"
    assert names == order(strategy, models, Random(seed), fallback=spare)


@given(models=candidates)
def test_the_same_numbers_keep_the_written_order(models: tuple[Candidate, ...]) -> None:
    """Two equal deployments do not take turns by accident."""
    equal = [Candidate(name=one.name, first_content_s=0.1) for one in models]

    for strategy in ("priority", "cheapest", "least_busy"):
        assert order(strategy, equal, Random(0)) == [one.name for one in models]


def test_a_deployment_named_twice_is_asked_once() -> None:
    """It may stand in the route and in its fallback."""
    a, b = Candidate(name="a"), Candidate(name="b")

    assert order("priority", [a, b], Random(0), fallback=[b, a]) == ["a", "b"]


def test_the_cheapest_comes_first_and_an_unknown_price_last() -> None:
    """Free is a price; unknown is none."""
    a = Candidate(name="a", price_nanousd=None)
    b = Candidate(name="b", price_nanousd=2**80)
    c = Candidate(name="c", price_nanousd=0)

    assert asked("cheapest", a, b, c) == "cba"


def test_the_least_busy_comes_first() -> None:
    """By the calls it is answering now."""
    a = Candidate(name="a", in_flight=2)
    b = Candidate(name="b", in_flight=0)
    c = Candidate(name="c", in_flight=1)

    assert asked("least_busy", a, b, c) == "bca"


def test_weights_are_shares_of_the_first_place() -> None:
    """And of the next places among those who are left."""
    a, b = Candidate(name="a", weight=3.0), Candidate(name="b", weight=1.0)
    c = Candidate(name="c", weight=4.0)
    rng = Random(9)

    first = firsts("weighted", a, b, c)
    second = Counter(
        names[1] for _ in range(4000) if (names := order("weighted", [a, b, c], rng))[0] == "c"
    )

    assert [round(first[name] / 4000, 1) for name in "abc"] == [0.4, 0.1, 0.5]
    assert second["a"] / second.total() == pytest.approx(0.75, abs=0.03)


def test_the_fastest_comes_first_but_for_a_look_at_the_others() -> None:
    """One call in twenty goes to any of them: who was slow once must be measured again."""
    a, b = Candidate(name="a", first_content_s=0.9), Candidate(name="b", first_content_s=0.2)

    first = firsts("fastest", a, b)

    assert first["b"] / 4000 == pytest.approx(0.975, abs=0.01)


def test_one_call_at_a_time_measures_a_new_deployment() -> None:
    """It is asked first while it answers nobody, and last while somebody finds out about it."""
    known = Candidate(name="a", first_content_s=0.2)
    new = Candidate(name="b", in_flight=0)
    tried = Candidate(name="b", in_flight=1)

    assert asked("fastest", known, new) == "ba"
    assert asked("fastest", tried, known) == "ab"


# Latencies.


@given(seconds=st.lists(st.floats(0, 100), max_size=60), size=st.integers(1, 20))
def test_quantiles_are_those_of_the_most_recent(seconds: list[float], size: int) -> None:
    """By nearest rank, of no more than there is room for."""
    latencies = Latencies(size)

    for one in seconds:
        latencies.add(one)

    recent = sorted(seconds[-size:])
    assert len(latencies) == len(recent)
    median = recent[(len(recent) + 1) // 2 - 1] if len(recent) >= 2 else None
    assert latencies.quantile(0.5) == median


def test_a_quantile_waits_for_enough_of_them() -> None:
    """The slowest of nineteen says nothing about the slowest twentieth."""
    latencies = Latencies()

    for number in range(19):
        latencies.add(float(number))
    assert latencies.quantile(0.95) is None
    latencies.add(19.0)

    assert latencies.quantile(0.95) == 18.0
    assert latencies.quantile(0.5) == 9.0


def test_a_latency_is_kept_with_little_work() -> None:
    """Every call adds one and looks one up, however many there have been."""
    latencies, rng = Latencies(), Random(1)

    def add_and_look() -> None:
        latencies.add(rng.random())
        latencies.quantile(0.95)

    assert max(calls_of(add_and_look) for _ in range(2000)) < 20
