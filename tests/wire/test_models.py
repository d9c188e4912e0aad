"""Lists of models, page by page."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.wire.errors import Refused
from orchestrator.wire.models import Listed, page_json


def listed(names: Sequence[str]) -> list[Listed]:
    return [Listed(name=name, owner="openai", kind="deployment") for name in names]


@given(
    names=st.lists(st.text("ab/-", min_size=1, max_size=4), unique=True, max_size=12),
    limit=st.integers(1, 5),
    way=st.sampled_from([("after_id", "last_id"), ("before_id", "first_id")]),
)
def test_pages_hold_every_model_once(names: list[str], limit: int, way: tuple[str, str]) -> None:
    """Whichever way somebody goes, from whichever end."""
    cursor, end = way
    query: dict[str, str] = {"limit": str(limit)}
    if cursor == "before_id":
        query[cursor] = "~"  # behind all of them
    found: list[str] = []
    while True:
        page, ignored = page_json(listed(names), query)
        assert ignored == {}
        shown = [one["id"] for one in page["data"]]
        assert len(shown) <= limit
        found = [*found, *shown] if cursor == "after_id" else [*shown, *found]
        if not page["has_more"]:
            break
        query[cursor] = page[end]

    assert found == sorted(names)


def test_a_page_goes_on_behind_a_model_that_is_gone() -> None:
    """Configurations change between two pages."""
    page, _ = page_json(listed(["c", "a", "d"]), {"after_id": "b", "before_id": "d"})

    assert [one["id"] for one in page["data"]] == ["c"]
    assert page["first_id"] == page["last_id"] == "c"


def test_what_of_a_query_has_no_effect_is_told() -> None:
    """In the page, as everywhere; what is not known is refused."""
    page, ignored = page_json([], {"beta": "true", "lifecycle[]": "active"})

    assert set(ignored) == {"beta", "lifecycle[]"}
    assert page["orchestration"]["ignored"] == ignored
    assert page["first_id"] is page["last_id"] is None


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"limit": ""}, "limit"),
        ({"page": "2"}, "page"),
    ],
)
def test_what_is_no_page_is_refused(query: Mapping[str, str], param: str) -> None:
    """It is blamed by its name."""
    with pytest.raises(Refused) as caught:
        page_json(listed(["a"]), query)

    assert caught.value.param == param
