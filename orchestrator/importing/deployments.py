"""Turn what a file says of one model into a deployment of ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cross_checks import is_address
from orchestrator.importing.draft import Draft
from orchestrator.importing.endpoints import ENDPOINTS, Endpoint, address, endpoint_of
from orchestrator.importing.reading import Reading
from orchestrator.yaml_source import Loc, suggestion

# Our keys, what they are called elsewhere, and the least they may be.
_COUNTS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("rates", "requests_per_minute"): ("rpm",),
    ("rates", "tokens_per_minute"): ("tpm",),
    ("rates", "concurrency"): ("max_parallel_requests",),
    ("max_tokens",): ("max_tokens", "max_completion_tokens"),
    ("context_tokens",): ("max_input_tokens", "context_window"),
}
_PRICES: Mapping[str, str] = {
    "input_usd": "input_cost_per_token",
    "output_usd": "output_cost_per_token",
    "cached_input_usd": "cache_read_input_token_cost",
    "cache_write_usd": "cache_creation_input_token_cost",
    "reasoning_usd": "output_cost_per_reasoning_token",
}
_MILLION = 10**6
_SMALLEST = Decimal("1e-9")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of a file.

    Attributes:
        at: Where it stands.
        name: What callers call it.
        prefix: Whose it is, in the file's word.
        model: The provider's own id.
        model_at: Where that stands.
        bases: Where its address may stand.
        parts: Where numbers about it may stand.
    """

    at: Loc
    name: str
    prefix: str
    model: str
    model_at: Loc
    bases: tuple[Loc, ...]
    keys: tuple[Loc, ...]
    parts: tuple[Loc, ...]


def deployment(reading: Reading, draft: Draft, entry: Entry) -> dict[str, Any] | None:
    """The deployment that an entry describes; None, told, for one that cannot be called."""
    base_at = next((loc for loc in entry.bases if reading.text(loc) is not None), None)
    base = None if base_at is None else _base(reading, draft, entry, base_at)
    endpoint = endpoint_of(entry.prefix, base, entry.model)
    if wrong := _wrong(draft, entry, endpoint, base):
        draft.left_out(entry.at, wrong)
        reading.drop(entry.at)
        return None
    assert endpoint is not None, "one that nobody knows is wrong"
    fields: dict[str, Any] = {"provider": endpoint.provider, "model": entry.model}
    if key := _key(reading, draft, entry, endpoint):
        fields["api_key"] = key
    if base := address(endpoint, base):
        fields["api_base"] = base
    if endpoint.caveat:
        draft.note(entry.model_at, endpoint.caveat)
    return fields | _numbers(reading, entry.parts) | _price(reading, draft, entry, endpoint)


def _wrong(draft: Draft, entry: Entry, endpoint: Endpoint | None, base: str | None) -> str:
    """Why an entry cannot be called; nothing, if it can."""
    source, model = draft.source, entry.model
    if not model or model != model.strip() or not model.isprintable() or "*" in model:
        return "one model is wanted, by its provider's own id"
    if "${" in model or re.match(r"\$\w+$", model) or entry.prefix == "os.environ":
        return "the id of a model is not read from the environment; write the id itself"
    if source.secrets and any(secret in model for secret in source.secrets):
        return "the id of its model holds what is a key elsewhere in the file"
    if endpoint is None:
        if not entry.prefix:
            return f"whose model it is cannot be told from {source.quote_value(model)}"
        known = suggestion(entry.prefix, ENDPOINTS)
        return f"the provider {source.quote_value(entry.prefix)} is not among ours{known}"
    if base is not None and not is_address(base):
        return "its address is none such as http://127.0.0.1:8080/v1"
    if endpoint.provider == "custom" and not address(endpoint, base):
        return "its address is missing: api_base"
    return ""


def _base(reading: Reading, draft: Draft, entry: Entry, loc: Loc) -> str:
    """An address as we write it: a variable instead of one that may hold a password."""
    written = (reading.text(loc) or "").strip()
    variable = re.match(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)$", written)
    if variable:
        return f"${{{variable[1]}}}"
    try:
        parts = urlsplit(written)
    except ValueError:
        return written  # told of as no address
    secrets = draft.source.secrets
    if "@" in parts.netloc or parts.query or any(secret in written for secret in secrets):
        reference, _ = draft.key(written, f"{entry.name}_API_BASE")
        draft.note(loc, f"the address is not copied, it may hold a secret; set {reference[2:-1]}")
        return reference
    return written


def _key(reading: Reading, draft: Draft, entry: Entry, endpoint: Endpoint) -> str:
    """What to write for a key. The key itself is never written."""
    for loc in entry.keys:
        written = reading.written(loc)
        if written is None:
            continue
        reference, is_new = draft.key(written, f"{entry.name}_API_KEY")
        if is_new:
            draft.note(loc, f"the key is not copied; set {reference[2:-1]} in the environment")
        return reference
    return f"${{{endpoint.key}}}" if endpoint.key else ""


def _numbers(reading: Reading, parts: tuple[Loc, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, names in _COUNTS.items():
        value = _first(reading, parts, names)
        if value is not None:
            inside = found.setdefault(place[0], {}) if len(place) > 1 else found
            inside[place[-1]] = int(value)
    for part in parts:
        weight = reading.number((*part, "weight"), least=_SMALLEST)
        if weight is not None and "weight" not in found:
            found["weight"] = number(weight)
    return found


def _first(reading: Reading, parts: tuple[Loc, ...], names: tuple[str, ...]) -> Decimal | None:
    """The first of several numbers that there is; those behind it are left, to be told of."""
    for part in parts:
        for name in names:
            # In a description of the model it is what is possible, and no wish.
            if name == "max_tokens" and part[-1] == "model_info":
                continue
            value = reading.number((*part, name), least=1, is_whole=True)
            if value is not None:
                return value
    return None


def _price(reading: Reading, draft: Draft, entry: Entry, endpoint: Endpoint) -> dict[str, Any]:
    """What calls cost, where the file says it."""
    prices: dict[str, Any] = {}
    for ours, theirs in _PRICES.items():
        for part in entry.parts:
            each = reading.number((*part, theirs), most=1000)
            if each is not None:
                prices.setdefault(ours, number(each * _MILLION))
    if prices and not {"input_usd", "output_usd"} <= set(prices):
        draft.note(entry.model_at, "its price is left out: only half of it is given")
        return {}
    if any(prices.values()):
        return {"price": prices}
    return {"price": "free"} if prices or endpoint.is_free else {}


def number(value: Decimal) -> int | float:
    """A number as YAML has it.

    >>> number(Decimal("3.0")), number(Decimal("0.150"))
    (3, 0.15)
    """
    return int(value) if value == value.to_integral_value() else float(value)
