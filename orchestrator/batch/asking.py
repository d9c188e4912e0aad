"""Turn a row into what is asked: its prompt, its messages, or a line of OpenAI's batches. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from orchestrator.batch.outcome import Failure
from orchestrator.batch.rows import BadRow, Row, kind_of
from orchestrator.config import OrchestratorConfig, RequestConfig, public_address
from orchestrator.errors import PatternError
from orchestrator.patterns import Pattern, check_syntax, render
from orchestrator.resolve import resolve
from orchestrator.wire.chat import ChatBody, asked_of
from orchestrator.wire.errors import Refused
from orchestrator.wire.reading import read_body

URL = "/v1/chat/completions"
MOST_CHARACTERS = 2**24  # of a rendered template
_PLACEHOLDER = "default"  # for a body that names no model; taken out again
_SHOWN = 12  # columns that a message names

_KNOWN = frozenset(ChatBody.model_fields)
_OF_A_LINE = frozenset(("custom_id", "method", "url", "body"))
_DEFAULTS = RequestConfig()
_NAME = "custom_id is what it is called, and none of its columns: copy it into another one"
_OUR_OWN = "what is set for all rows goes before it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is the same for all rows.

    Attributes:
        request: A request without a question: the model, the system message, the format of the
            answer, limits. What is set here goes before what a row says.
        template: Makes the prompt of a row's columns; "" takes the row as it is. The columns are
            values by their names, and all together `row`.
        names: The deployments, routes and panels of the configuration.

    Raises:
        PatternError: the template is none.
    """

    request: RequestConfig = field(default_factory=RequestConfig)
    template: str = ""
    names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_syntax(self.template)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a row asks.

    Attributes:
        request: The run.
        ignored: What the row says that has no effect, and why.
    """

    request: RequestConfig
    ignored: Mapping[str, str] = field(default_factory=dict)


def question_of(row: Row | BadRow, options: Options) -> Question | Failure:
    """What a row asks, or why it asks nothing.

    >>> row = Row(position=0, line=2, fields={"word": "moon"})
    >>> asked = question_of(row, Options(template="Define {{ word }}."))
    >>> asked.request.prompt
    'Define moon.'
    """
    if isinstance(row, BadRow):
        return _failure(row, row.problem)
    try:
        return _question(row.fields, options)
    except Refused as error:
        return _failure(row, str(error), error.status)
    except PatternError as error:
        why = f"; {_NAME}" if row.custom_id and "'custom_id'" in str(error) else ""
        return _failure(row, f"{error}; the row has {_columns(row.fields)}{why}")


def _failure(row: Row | BadRow, problem: str, status: int = 400) -> Failure:
    return Failure(kind="InvalidRow", message=f"Line {row.line}: {problem}", status=status)


def _question(fields: Mapping[str, object], options: Options) -> Question:
    if options.template:
        values = {"row": fields, **fields}
        return _prompted(render(options.template, values, limit=MOST_CHARACTERS), options, {})
    if "messages" in fields:
        parameters = {name: value for name, value in fields.items() if name in _KNOWN}
        others = dict.fromkeys(fields.keys() - _KNOWN, "no parameter of a chat completion")
        return _from_body(parameters, options, others)
    if "prompt" in fields:
        why = "a row with a prompt has no parameters; write messages, or set it for all rows"
        ignored = dict.fromkeys(fields.keys() & (_KNOWN | {"system"}), why)
        return _prompted(fields["prompt"], options, ignored)
    if "body" in fields:
        return _from_line(fields, options)
    raise Refused(
        f"it has no prompt, messages or body but {_columns(fields)}; write a --template of these"
    )


def _columns(fields: Mapping[str, object]) -> str:
    """What a row has, for a message."""
    return ", ".join(sorted(repr(name[:40]) for name in fields)[:_SHOWN]) or "nothing"


def _prompted(prompt: object, options: Options, ignored: Mapping[str, str]) -> Question:
    if not isinstance(prompt, str):
        raise Refused(f"its prompt is {kind_of(prompt)}; write text")
    if not prompt.strip():
        raise Refused("its prompt is empty")
    return Question(request=options.request.model_copy(update={"prompt": prompt}), ignored=ignored)


# OpenAI's bodies.


def _from_line(line: Mapping[str, object], options: Options) -> Question:
    if line.get("url") != URL:
        found = f"its url is {str(line['url'])[:64]!r}" if "url" in line else "it has no url"
        raise Refused(f"{found}; a line of a batch has {URL!r}")
    if line.get("method", "POST") != "POST":
        raise Refused(f"its method is {str(line['method'])[:16]!r}; a line of a batch has 'POST'")
    body = line["body"]
    if not isinstance(body, dict):
        raise Refused(f"its body is {kind_of(body)}; write an object, {{...}}")
    others = dict.fromkeys(line.keys() - _OF_A_LINE, "no field of a line of a batch")
    return _from_body(body, options, others)


def _from_body(
    body: Mapping[str, object], options: Options, ignored: Mapping[str, str]
) -> Question:
    """What a body asks, through the same door as over the wire."""
    said, own = dict(ignored), options.request.model
    named = body.get("model")
    if own is not None and named not in (None, own):
        said["model"] = _OUR_OWN
    asked_for = {**body, "model": own or (_PLACEHOLDER if named is None else named)}
    checked = read_body(ChatBody, orjson.dumps(asked_for, default=str))
    is_known = checked.model in options.names or checked.model == _PLACEHOLDER
    asked = asked_of(checked, tenant=options.request.tenant, is_configured=is_known)
    if len(asked.requests) > 1:
        raise Refused("Invalid 'n': a row has one answer; write the row several times", param="n")
    if checked.stream:
        said["stream"] = "a batch has whole answers"
    request = asked.requests[0]
    given = _given(options.request)
    said |= {name: _OUR_OWN for name, value in given.items() if _differs(request, name, value)}
    if own is None and named is None:
        given["model"] = None
    if "extra" in given:
        given["extra"] = {**request.extra, **options.request.extra}
    return Question(request=request.model_copy(update=given), ignored={**asked.ignored, **said})


def _given(request: RequestConfig) -> dict[str, Any]:
    """What is set for all rows."""
    fields = {name: getattr(request, name) for name in RequestConfig.model_fields}
    return {name: value for name, value in fields.items() if value != getattr(_DEFAULTS, name)}


def _differs(request: RequestConfig, name: str, value: object) -> bool:
    """Whether a row says otherwise of something that is set for all rows."""
    return getattr(request, name) not in (value, getattr(_DEFAULTS, name))


# What changes answers.


# What a run may use up, on whose behalf, and what is noted of it: no answer is another for that.
_NO_CONTENT = frozenset(
    (
        "prompt",
        "messages",
        "time_s",
        "max_cost_usd",
        "max_run_tokens",
        "max_calls",
        "tenant",
        "tenant_windows",
        "tags",
        "cache",
        "notes",
    )
)
_OF_MODELS = ("provider", "model", "weight", "max_tokens", "media_urls", "prefill")


def config_digest(
    options: Options, config: OrchestratorConfig, patterns: Mapping[str, Pattern]
) -> str:
    """What batches have in common that would answer a row alike: 32 hex digits.

    It covers what is set for all rows, the template, and of the configuration those that are asked,
    their pattern and how it goes: all of it where rows name their own models. Budgets, timeouts,
    retries, prices, rates, keys and where things are kept can be changed in the middle.

    Args:
        options: What is the same for all rows.
        config: The configuration.
        patterns: Its patterns, by name.

    Raises:
        OrchestratorError: what is to be asked cannot be.
    """
    asked = options.request.model_dump(mode="json", exclude=set(_NO_CONTENT), exclude_defaults=True)
    content = {"request": asked, "template": options.template}
    content |= _everybody(config, patterns)
    if options.request.model is not None or options.request.members is not None:
        content |= _those_asked(options.request, config, patterns)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _everybody(config: OrchestratorConfig, patterns: Mapping[str, Pattern]) -> dict[str, Any]:
    named = {panel.pattern for panel in config.panels.values()} & set(patterns)
    return {
        "models": _models(config, config.models),
        "routes": {name: route.model_dump(mode="json") for name, route in config.routes.items()},
        "panels": [(name, panel.model_dump(mode="json")) for name, panel in config.panels.items()],
        "patterns": {name: patterns[name].model_dump(mode="json") for name in named},
    }


def _those_asked(
    request: RequestConfig, config: OrchestratorConfig, patterns: Mapping[str, Pattern]
) -> dict[str, Any]:
    target = resolve(request, config, patterns)
    members = (*target.members, *target.synthesizers)
    routes = {member.route for member in members if member.route}
    return {
        "models": _models(config, {name for one in members for name in one.deployments}),
        "routes": {name: config.routes[name].model_dump(mode="json") for name in routes},
        "panels": [
            [member.name for member in target.members],
            [member.name for member in target.synthesizers],
            target.quorum,
        ],
        "patterns": patterns[target.pattern].model_dump(mode="json") if target.pattern else None,
    }


def _models(config: OrchestratorConfig, names: Iterable[str]) -> dict[str, Any]:
    return {
        name: {
            **config.models[name].model_dump(mode="json", include=set(_OF_MODELS)),
            "api_base": public_address(config.models[name].api_base),
        }
        for name in names
    }
