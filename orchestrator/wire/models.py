"""What `model` may name, as OpenAI's clients are told it and as Anthropic's are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.wire.errors import Refused

Json = dict[str, Any]

LIMIT, MOST = 20, 1000  # models on a page: Anthropic's usual number, and its largest

# Why what a query may say has no effect. Each is reported in the reply.
_UNUSED: Mapping[str, str] = {
    "beta": "what is understood needs no leave, and nothing else is",
    "lifecycle": "every model that is listed is active",
    "lifecycle[]": "every model that is listed is active",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """Something that can be asked.

    Attributes:
        owner: Whose it is: a provider's, or ours.
        kind: A deployment, a route, a panel or a pattern.
    """

    name: str
    owner: str
    kind: str


def model_json(model: Listed) -> Json:
    """A model in OpenAI's shape."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": model.owner,
        "kind": model.kind,
    }


def anthropic_json(model: Listed) -> Json:
    """A model in Anthropic's shape, in which the epoch is a day that is not known."""
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "owned_by": model.owner,
        "kind": model.kind,
    }


def page_json(models: Sequence[Listed], query: Mapping[str, str]) -> tuple[Json, dict[str, str]]:
    """A page of the list in Anthropic's shape, and what of the query has no effect.

    Pages are in the order of names, so that one goes on behind a model that is not there any more.

    Args:
        models: All of them.
        query: `limit`, `after_id` and `before_id`.

    Raises:
        Refused: it asks for what is no page.
    """
    limit, ignored = _limit(query), _ignored(query)
    after, before = query.get("after_id", ""), query.get("before_id")
    named = sorted(models, key=lambda one: one.name)
    within = [one for one in named if one.name > after and (before is None or one.name < before)]
    shown = within[:limit] if before is None or after else within[-limit:]
    page: Json = {
        "data": [anthropic_json(one) for one in shown],
        "has_more": len(shown) < len(within),
        "first_id": shown[0].name if shown else None,
        "last_id": shown[-1].name if shown else None,
    }
    return page | ({"orchestration": {"ignored": ignored}} if ignored else {}), ignored


def _limit(query: Mapping[str, str]) -> int:
    given = query.get("limit", str(LIMIT))
    # No more digits than MOST has: int() takes its time over many.
    if given.isascii() and given.isdigit() and len(given) <= 4 and 1 <= int(given) <= MOST:
        return int(given)
    raise Refused(
        f"Invalid 'limit': wanted a whole number from 1 to {MOST}",
        param="limit",
        code="invalid_value",
    )


def _ignored(query: Mapping[str, str]) -> dict[str, str]:
    unknown = query.keys() - _UNUSED.keys() - {"limit", "after_id", "before_id"}
    if unknown:
        name = min(unknown)
        raise Refused(f"Unknown parameter: {name!r}", param=name, code="unknown_parameter")
    return {name: why for name, why in _UNUSED.items() if name in query}
