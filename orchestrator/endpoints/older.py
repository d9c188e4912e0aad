"""Requests of earlier versions of this system: each is one run, told in the shape of its time."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import wraps
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, StrictBool, TypeAdapter, ValidationError

from orchestrator.config import MOST_MEMBERS, RequestConfig, Tag
from orchestrator.endpoints.calls import JSON, Call, Reply, Service, fault, json_reply
from orchestrator.endpoints.gone import gone
from orchestrator.endpoints.streams import data, streamed
from orchestrator.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptFollows,
    AttemptProgress,
    AttemptStarted,
    BudgetShrunk,
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextDelta,
    TextReset,
)
from orchestrator.patterns import Pattern
from orchestrator.resolve import default_name
from orchestrator.responses import AttemptRecord, OrchestratorResponse, StageRecord
from orchestrator.wire import orchestration
from orchestrator.wire.errors import Fault, Refused
from orchestrator.wire.reading import Body, read_body
from orchestrator.wire.writing import dump
from orchestrator.yaml_source import suggestion

Answering = Callable[[Service, Call], Awaitable[Reply]]

# RFC 9745: since when, in seconds; and RFC 5829: what to use instead.
_SINCE = "@1767225600"  # the first of January 2026
_RUNS, _MODELS = "/v1/orchestrations", "/v1/models"

# What patterns were called. Those of the defaults of old are not among the built-in ones; where
# nobody has brought them along, the usual one is taken, and the reply says so.
PATTERN_NAMES: Mapping[str, str] = {
    "comparative": "confidence",
    "critical": "critique",
    "factual": "fact_check",
    "simple": "compare",
}
_DEFAULTS = {"confidence", "gut"}
_USUAL = "compare"

_OUTPUT = {"txt", "text", "plain"}
_ASIDE: Mapping[str, str] = {
    "alternate_perspective": "the pattern says what members are asked to look at",
    "avoid_ai_detection": "answers are given as models write them",
    "fact_check": "the pattern fact_check does that",
    "sourcing": "the prompt can ask for sources",
}
_PROMISES = {"encrypted", "no_data_sharing"}


# What was asked.

Names = Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_MEMBERS)]
Prompt = Annotated[str, Field(min_length=1)]
_PANEL = AliasChoices("selected_models", "models", "model_names")
_WRITER = AliasChoices(
    "ultra_model", "synthesis_model", "primary_model", "lead_model", "synthesizer"
)
_PATTERN = AliasChoices("pattern", "analysis_pattern", "analysis_type", "mode")


class Options(Body):
    """What of `options` means something to a run."""

    max_tokens: Annotated[int, Field(gt=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None


class Analysis(Body):
    """`POST /api/analyze`."""

    prompt: Prompt
    selected_models: Annotated[Names, Field(validation_alias=_PANEL)]
    ultra_model: Annotated[str, Field(validation_alias=_WRITER)]
    pattern: Annotated[str | None, Field(validation_alias=_PATTERN)] = None
    ala_carte_options: tuple[str, ...] | dict[str, bool] | None = None
    output_format: str = "txt"
    document_ids: tuple[str, ...] | None = None
    options: Options | None = None


class Text(Body):
    """`POST /api/analyze` of the latest version: a text for one model."""

    text: Prompt
    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7


class Query(Body):
    """`POST /api/orchestrator/analyze`."""

    query: Prompt
    analysis_type: Annotated[str, Field(validation_alias=_PATTERN)] = "simple"
    options: Options | None = None
    user_id: Tag | None = None
    selected_models: Annotated[Names | None, Field(validation_alias=_PANEL)] = None
    ultra_model: Annotated[str | None, Field(validation_alias=_WRITER)] = None
    save_outputs: StrictBool = False
    include_pipeline_details: StrictBool = False
    include_initial_responses: StrictBool = False


StreamPart = Literal["all", "synthesis_chunks", "model_responses"]


class StreamedQuery(Query):
    """`POST /api/orchestrator/analyze/stream`."""

    stream_stages: Annotated[tuple[StreamPart, ...], Field(min_length=1)] = ("all",)
    chunk_size: Annotated[int, Field(ge=1, le=10_000)] = 50


class Process(Body):
    """`POST /orchestrator/process`."""

    prompt: Prompt
    models: Annotated[Names | None, Field(validation_alias=_PANEL)] = None
    lead_model: Annotated[str | None, Field(validation_alias=_WRITER)] = None
    analysis_type: Annotated[str | None, Field(validation_alias=_PATTERN)] = None
    options: Options | None = None


class Feather(Body):
    """`POST /orchestrator/feather`."""

    prompt: Prompt
    models: Annotated[Names | None, Field(validation_alias=_PANEL)] = None
    pattern: Annotated[str | None, Field(validation_alias=_PATTERN)] = None
    ultra_model: Annotated[str | None, Field(validation_alias=_WRITER)] = None
    output_format: str = "plain"


class FeatherArguments(Body):
    """What the frontend of old had in `args`."""

    pattern: Annotated[str | None, Field(validation_alias=_PATTERN)] = None
    ultra_model: Annotated[str | None, Field(validation_alias=_WRITER)] = None
    output_format: str = "plain"


class FrontendFeather(Body):
    """`POST /orchestrator/feather` as the frontend of old sent it."""

    prompt: Prompt
    models: Annotated[Names | None, Field(validation_alias=_PANEL)] = None
    args: FeatherArguments = FeatherArguments()
    kwargs: Annotated[dict[str, Any] | None, Field(max_length=0)] = None


_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def _fields(body: bytes) -> frozenset[str]:
    """The fields of a body, by which shapes of one path are told apart; none if it is no object."""
    try:
        return frozenset(_OBJECT.validate_json(body))
    except ValidationError:
        return frozenset()


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it was asked for.

    Attributes:
        names: What the caller calls each member.
        ignored: What has no effect, and why.
    """

    request: RequestConfig
    names: Mapping[str, str]
    ignored: Mapping[str, str]

    def called(self, member: str) -> str:
        """A member's name as the caller knows it."""
        name, mark, number = member.partition("#")
        return f"{self.names.get(name, name)}{mark}{number}"


def _run(
    service: Service,
    call: Call,
    prompt: str,
    *,
    models: Iterable[str] | None,
    writer: str | None,
    pattern: str | None,
    options: Options | None = None,
    ignored: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Run:
    """The run for a request's names.

    Raises:
        Refused: a name that nothing is called, or that the caller may not use.
    """
    unheard = dict(ignored or {})
    names: dict[str, str] = {}
    for name in models or ():
        member = _member(service, call, name, "selected_models")
        if member in names:
            raise Refused(
                f"{name!r} and {names[member]!r} in 'selected_models' are one; name it once",
                param="selected_models",
                code="invalid_value",
            )
        names[member] = name
    synthesizer = _member(service, call, writer, "ultra_model") if writer else None
    model = None if names else default_name(service.engine.config)
    if model is not None:
        call.need_model(model)
    request = RequestConfig(
        prompt=prompt,
        model=model,
        members=tuple(names) or None,
        synthesizer=synthesizer,
        pattern=_pattern(service, pattern, unheard) if pattern else None,
        tenant=call.tenant,
        tags=(user,) if user else (),
        **(options.model_dump(exclude_none=True) if options else {}),
    )
    return Run(request, names, unheard)


def _member(service: Service, call: Call, name: str, param: str) -> str:
    """The deployment or route that is meant by its name, or by the provider's id of its model."""
    config = service.engine.config
    if name in config.models or name in config.routes:
        call.need_model(name)
        return name
    known = {one: model for one, model in config.models.items() if call.may_ask(one)}
    serving = [
        one
        for one, model in known.items()
        if name in {model.model, f"{model.provider.value}/{model.model}"}
    ]
    if len(serving) == 1:
        return serving[0]
    askable = (*known, *(route for route in config.routes if call.may_ask(route)))
    if serving:
        message = f"{name!r} in '{param}' is served by {_listed(serving)}; name one of them"
    else:
        message = f"Unknown model {name!r} in '{param}'{suggestion(name, askable)}"
        message += f"; there are: {_listed(askable)}"
    code = "ambiguous_model" if serving else "model_not_found"
    raise Refused(message, param=param, code=code)


def _pattern(service: Service, name: str, ignored: dict[str, str]) -> str:
    known = service.engine.patterns
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    meant = PATTERN_NAMES.get(plain, plain)
    found = next((one for one in (name, meant) if one in known), None)
    if found is not None:
        return found
    if meant in _DEFAULTS:
        ignored["pattern"] = f"the old default, {meant}, is not there; {_USUAL} was taken"
        return _USUAL
    message = f"Unknown pattern {name!r}{suggestion(plain, tuple(known))}"
    message += f"; there are: {_listed(sorted(known))}"
    raise Refused(message, param="pattern", code="pattern_not_found")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _set_format_aside(wanted: str) -> Iterator[tuple[str, str]]:
    """Why a format that was asked for has no effect.

    Raises:
        Refused: without it the answer would be of no use.
    """
    if wanted.lower() == "markdown":
        yield "output_format", "the answer is as the model has written it, often markdown"
    elif wanted.lower() not in _OUTPUT:
        raise Refused(
            f"output_format {wanted!r} is not made here; the answer is text as it was written,"
            " so write txt and convert it",
            param="output_format",
            code="unsupported_value",
        )


def _set_aside(wanted: tuple[str, ...] | dict[str, bool] | None) -> Iterator[tuple[str, str]]:
    """The options of `ala_carte_options` that have no effect, and why.

    Raises:
        Refused: one that is a promise, or is not known.
    """
    chosen = [one for one, on in wanted.items() if on] if isinstance(wanted, dict) else wanted or ()
    for option in chosen:
        if option in _ASIDE:
            yield f"ala_carte_options.{option}", _ASIDE[option]
            continue
        why = "cannot be promised" if option in _PROMISES else "is not known"
        raise Refused(
            f"{option!r} in 'ala_carte_options' {why} here; leave it out",
            param="ala_carte_options",
            code="unsupported_value",
        )


# What is told.


def _older(answering: Answering, failed: Callable[[Fault], Any], instead: str) -> Answering:
    """An endpoint that says it is deprecated, and whose errors have the shape of their time."""
    marks = _marks(instead)

    @wraps(answering)
    async def answer(service: Service, call: Call) -> Reply:
        try:
            reply = await answering(service, call)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked is told
            told = fault(error)
            reply = Reply(
                status=told.status, headers={**JSON, **told.headers}, body=dump(failed(told))
            )
        return replace(reply, headers={**reply.headers, **marks})

    return answer


def _marks(instead: str) -> dict[str, str]:
    return {"deprecation": _SINCE, "link": f'<{instead}>; rel="successor-version"'}


def never_again(path: str) -> Reply | None:
    """What is replied under a path that only earlier versions served; None: none of them did."""
    return gone(path, _marks(_RUNS))


def _status_error(told: Fault) -> dict[str, Any]:
    return {"status": "error", "message": told.message, "code": told.code, "param": told.param}


def _unsuccessful(told: Fault) -> dict[str, Any]:
    return {
        "success": False,
        "results": None,
        "error": told.message,
        "processing_time": None,
        "saved_files": None,
        "pipeline_info": None,
    }


def _no_analysis(told: Fault) -> dict[str, Any]:
    return {"success": False, "analysis": None, "model_used": None, "error": told.message}


def _told(run: Run, response: OrchestratorResponse, content: Mapping[str, Any]) -> Reply:
    """A reply about a finished run; beside its old shape it says how the run went."""
    outcome = orchestration.outcome([response], run.ignored)
    return json_reply(
        {**content, "orchestration": outcome}, orchestration.headers([response], run.ignored)
    )


def _answers(run: Run, response: OrchestratorResponse) -> dict[str, str]:
    """What the members have answered; who has not is told of in `orchestration`."""
    return {
        run.called(name): one.text for name, one in response.model_responses.items() if one.usable
    }


def _writer(run: Run, response: OrchestratorResponse) -> str | None:
    """Who has written the final answer, if anybody has."""
    last = response.receipt.stages[-1] if response.receipt.stages else None
    written = [one for one in last.attempts if one.status == "ok"] if last else []
    is_one = last is not None and last.combine == "write" and bool(written)
    return run.called(written[-1].member) if is_one else run.request.synthesizer


def _seconds(value: float) -> float:
    return round(value, 3)


# POST /api/analyze


async def _analyze(service: Service, call: Call) -> Reply:
    """Ask a panel, as the first version did, or one model, as the latest."""
    fields = _fields(call.body)
    if "text" in fields and "prompt" not in fields:
        return await _analyze_text(service, call)
    body = read_body(Analysis, call.body)
    ignored = dict(_set_format_aside(body.output_format))
    if body.document_ids:
        raise Refused(
            "'document_ids' cannot be looked up: no documents are kept here; put their text into"
            " the prompt",
            param="document_ids",
            code="unsupported_parameter",
        )
    ignored.update(_set_aside(body.ala_carte_options))
    run = _run(
        service,
        call,
        body.prompt,
        models=body.selected_models,
        writer=body.ultra_model,
        pattern=body.pattern or "confidence",
        options=body.options,
        ignored=ignored,
    )
    return await _analysis(service, run, body.ultra_model)


async def _analysis(service: Service, run: Run, writer: str | None) -> Reply:
    """A run as the first version told it."""
    response = await service.engine.execute_request(run.request)
    receipt, answers = response.receipt, _answers(run, response)
    members = {run.called(name): one for name, one in response.model_responses.items()}
    content = {
        "status": "success",
        "analysis_id": receipt.run_id,
        "model_responses": answers,
        "ultra_response": response.content,
        "performance": {
            "total_time_seconds": _seconds(receipt.elapsed_s),
            "model_times": {name: _seconds(one.elapsed_s) for name, one in members.items()},
            "token_counts": {
                name: {
                    "prompt_tokens": one.usage.prompt_tokens,
                    "completion_tokens": one.usage.completion_tokens,
                    "total_tokens": one.usage.total_tokens,
                }
                for name, one in members.items()
            },
        },
        "metadata": {
            "pattern": receipt.pattern,
            "timestamp": receipt.started_at,
            "models_used": list(answers),
            "ultra_model": writer or _writer(run, response),
        },
    }
    return _told(run, response, content)


async def _text(service: Service, call: Call) -> Reply:
    body = read_body(Text, call.body)
    if body.model is None:
        model = default_name(service.engine.config)
        call.need_model(model)
        ignored = {"model": f"the old default, gpt-4, is not asked; {model} was"}
    else:
        model, ignored = _member(service, call, body.model, "model"), {}
    request = RequestConfig(
        prompt=body.text, model=model, temperature=body.temperature, tenant=call.tenant
    )
    run = Run(request, {}, ignored)
    response = await service.engine.execute_request(request)
    told = {"analysis": response.content, "model_used": body.model or model, "error": None}
    return _told(run, response, {"success": True, **told})


_analyze_text = _older(_text, _no_analysis, _RUNS)


# POST /api/orchestrator/analyze, whole and as a stream


def _query(service: Service, call: Call, body: Query) -> Run:
    ignored = {}
    if body.save_outputs:
        ignored["save_outputs"] = "no files are written; GET /v1/orchestrations/{id} has the record"
    return _run(
        service,
        call,
        body.query,
        models=body.selected_models,
        writer=body.ultra_model,
        pattern=body.analysis_type,
        options=body.options,
        ignored=ignored,
        user=body.user_id,
    )


async def _analyze_query(service: Service, call: Call) -> Reply:
    """Ask a panel, as the latest version did."""
    body = read_body(Query, call.body)
    run = _query(service, call, body)
    response = await service.engine.execute_request(run.request)
    return _told(run, response, _results(run, body, response))


def _results(run: Run, body: Query, response: OrchestratorResponse) -> dict[str, Any]:
    receipt = response.receipt
    if body.include_pipeline_details:
        results: dict[str, Any] = {
            stage.name: {
                "output": _output(run, stage, response),
                "quality": None,  # nothing here gives marks to a whole stage
                "status": stage.status,
            }
            for stage in receipt.stages
        }
        results["formatted_output"] = response.content
    else:
        results = {
            "ultra_synthesis": response.content,
            "formatted_synthesis": response.content,
            "status": response.status,
        }
    if body.include_initial_responses:
        results["initial_responses"] = _answers(run, response)
    done = [stage for stage in receipt.stages if stage.status in {"ok", "degraded"}]
    return {
        "success": True,
        "results": results,
        "error": None,
        "processing_time": _seconds(receipt.elapsed_s),
        "saved_files": None,
        "pipeline_info": {
            "stages_completed": [stage.name for stage in done],
            "total_stages": len(receipt.stages),
            "models_used": list(_answers(run, response)),
            "pipeline_type": receipt.pattern,
        },
    }


def _output(run: Run, stage: StageRecord, response: OrchestratorResponse) -> Any:
    """What a stage has brought: the answer, for the last; else what each model has said."""
    if stage is response.receipt.stages[-1]:
        return response.content
    return _texts(run, stage.attempts)


def _texts(run: Run, attempts: Iterable[AttemptRecord]) -> dict[str, str]:
    return {run.called(one.member): one.text for one in attempts if one.status == "ok"}


async def _stream_query(service: Service, call: Call) -> Reply:
    """Ask a panel, and hear of it as the latest version told it."""
    body = read_body(StreamedQuery, call.body)
    run = _query(service, call, body)
    frames = Frames(service, body.stream_stages)
    pieces = _frames(service, run, body, frames)
    headers = orchestration.ignored_header(run.ignored)
    return await streamed(service, pieces, headers=headers, failure=frames.failure)


async def _frames(
    service: Service, run: Run, body: StreamedQuery, frames: "Frames"
) -> AsyncGenerator[bytes, None]:
    telling = Telling(run, body)
    async with aclosing(service.engine.stream_request(run.request)) as events:
        async for event in events:
            for name, told in telling.of(event):
                if frames.wants(name):
                    yield frames.frame(name, told)


_PARTS: Mapping[StreamPart, tuple[str, ...]] = {
    "all": ("pipeline_", "stage_", "model_", "synthesis_"),
    "synthesis_chunks": ("pipeline_", "synthesis_"),
    "model_responses": ("pipeline_", "model_"),
}


class Frames:
    """The frames of one stream, numbered."""

    def __init__(self, service: Service, parts: Iterable[StreamPart]) -> None:
        self._clock = service.clock
        self._wanted = tuple(prefix for part in parts for prefix in _PARTS[part])
        self._sequence = 0

    def wants(self, name: str) -> bool:
        return name.startswith(self._wanted)

    def frame(self, name: str, told: Mapping[str, Any]) -> bytes:
        self._sequence += 1
        return data(
            {
                "event": name,
                "sequence": self._sequence,
                "timestamp": self._clock.now().isoformat(),
                "data": told,
            }
        )

    def failure(self, told: Fault) -> bytes:
        return self.frame("pipeline_error", {"error": told.message, "code": told.code})


Told = Iterator[tuple[str, dict[str, Any]]]


class Telling:
    """What each event of a run is called in the frames of old."""

    def __init__(self, run: Run, body: StreamedQuery) -> None:
        self._run = run
        self._body = body
        self._held = ""  # text that does not fill a chunk yet
        self._has_begun = False

    def of(self, event: Event) -> Told:
        """The frames of an event, as names and data."""
        match event:
            case RunStarted():
                yield (
                    "pipeline_start",
                    {
                        "analysis_id": event.run_id,
                        "pipeline_type": event.pattern,
                        "models": [self._run.called(name) for name in event.members],
                        "stages": list(event.stages),
                        "ignored": dict(self._run.ignored),
                    },
                )
            case TextDelta():
                yield from self._begun()
                self._held += event.text
                yield from self._chunks(self._body.chunk_size)
            case TextReset():  # what has come so far is withdrawn
                self._held, self._has_begun = "", False
                yield from self._begun(event.cause)
            case RunFinished():
                yield from self._finished(event.response)
            case _:
                yield from self._stage(event)

    def _stage(self, event: Event) -> Told:
        match event:
            case StageStarted():
                models = [self._run.called(name) for name in event.members]
                place = {"stage": event.stage, "index": event.index, "total": event.total}
                yield "stage_start", {**place, "models": models}
            case StageFinished():
                name = "stage_error" if event.status == "failed" else "stage_complete"
                yield (
                    name,
                    {
                        "stage": event.stage,
                        "status": event.status,
                        "elapsed": _seconds(event.elapsed_s),
                        "summary": event.summary,
                    },
                )
            case AttemptProgress():
                yield "stage_progress", {**self._who(event), "characters": event.characters}
            case AttemptFollows():
                yield "stage_progress", {**self._who(event), "follows": event.how}
            case BudgetShrunk():
                yield "stage_progress", {"stage": None, "shrunk": list(event.steps)}
            case AttemptStarted():
                yield "model_start", {**self._who(event), "attempt": event.attempt}
            case AttemptFinished():
                used = {"usable": event.usable, "tokens": event.usage.total_tokens}
                elapsed = {"elapsed": _seconds(event.elapsed_s)}
                yield "model_complete", {**self._who(event), **used, **elapsed}
            case AttemptFailed():
                why = {"error": event.error, "message": event.message}
                yield "model_error", {**self._who(event), **why}
            case _:
                return

    def _who(
        self,
        event: AttemptStarted | AttemptProgress | AttemptFinished | AttemptFailed | AttemptFollows,
    ) -> dict[str, Any]:
        return {"stage": event.stage, "model": self._run.called(event.member)}

    def _begun(self, cause: str | None = None) -> Told:
        if not self._has_begun:
            self._has_begun = True
            yield "synthesis_start", {"model": self._run.request.synthesizer, "restarted": cause}

    def _chunks(self, size: int) -> Told:
        while len(self._held) >= size:
            piece, self._held = self._held[:size], self._held[size:]
            yield "synthesis_chunk", {"content": piece}

    def _finished(self, response: OrchestratorResponse) -> Told:
        yield from self._begun()
        if self._held:
            yield "synthesis_chunk", {"content": self._held}
        writer = _writer(self._run, response)
        yield "synthesis_complete", {"content": response.content, "model": writer}
        for name, text in _answers(self._run, response).items():
            yield "model_response", {"model": name, "response": text}
        told = _results(self._run, self._body, response)
        outcome = orchestration.outcome([response], self._run.ignored)
        yield "pipeline_complete", {**told, "orchestration": outcome}


# POST /orchestrator/process and /orchestrator/feather


async def _process(service: Service, call: Call) -> Reply:
    """Ask a panel, as the first version's orchestrator did."""
    body = read_body(Process, call.body)
    run = _run(
        service,
        call,
        body.prompt,
        models=body.models,
        writer=body.lead_model,
        pattern=body.analysis_type or _USUAL,
        options=body.options,
    )
    response = await service.engine.execute_request(run.request)
    config = service.engine.config
    initial = [
        {
            "model": run.called(name),
            "provider": config.models[one.deployment].provider.value,
            "response": one.text,
            "response_time": _seconds(one.elapsed_s),
            "quality_score": None,  # nothing here gives marks
        }
        for name, one in response.model_responses.items()
        if one.usable
    ]
    between = response.receipt.stages[1:-1]
    result = {
        "prompt": body.prompt,
        "initial_responses": initial,
        "analysis_results": {stage.name: _texts(run, stage.attempts) for stage in between},
        "synthesis": response.content,
        "selected_response": _picked(run, response),
        "lead_model": body.lead_model or _writer(run, response),
    }
    return _told(run, response, {"status": "success", "result": result})


def _picked(run: Run, response: OrchestratorResponse) -> str | None:
    """Whose answer, or which, was taken as it is, where a pattern does that."""
    for stage in reversed(response.receipt.stages):
        found = stage.outcome.get("picked", stage.outcome.get("winner"))
        if isinstance(found, str):
            return run.called(found)
    return None


async def _feather(service: Service, call: Call) -> Reply:
    """Ask a panel, as the second version did."""
    if _fields(call.body) & {"args", "kwargs"}:
        return await _feather_by_frontend(service, call)
    body = read_body(Feather, call.body)
    ignored = dict(_set_format_aside(body.output_format))
    run = _run(
        service,
        call,
        body.prompt,
        models=body.models,
        writer=body.ultra_model,
        pattern=body.pattern or "gut",
        ignored=ignored,
    )
    response = await service.engine.execute_request(run.request)
    receipt, answers = response.receipt, _answers(run, response)
    texts = {stage.name: _texts(run, stage.attempts) for stage in receipt.stages}
    content = {
        "status": "success",
        "initial_responses": answers,
        "meta_responses": texts.get("meta", {}),
        "hyper_responses": texts.get("hyper", {}),
        "ultra_response": response.content,
        "processing_time": _seconds(receipt.elapsed_s),
        "pattern_used": receipt.pattern,
        "models_used": list(answers),
    }
    return _told(run, response, content)


async def _feather_by_frontend(service: Service, call: Call) -> Reply:
    body = read_body(FrontendFeather, call.body)
    ignored = dict(_set_format_aside(body.args.output_format))
    run = _run(
        service,
        call,
        body.prompt,
        models=body.models,
        writer=body.args.ultra_model,
        pattern=body.args.pattern or "gut",
        ignored=ignored,
    )
    return await _analysis(service, run, body.args.ultra_model)


# What there is to ask for.


def _names(service: Service, call: Call) -> list[str]:
    """Whatever can be a member of a panel."""
    config = service.engine.config
    return [name for name in (*config.models, *config.routes) if call.may_ask(name)]


def _need_no_query(call: Call, *allowed: str) -> None:
    for name in call.query:
        if name not in allowed:
            raise Refused(f"Unknown parameter: {name!r}", param=name, code="unknown_parameter")


async def _available_models(service: Service, call: Call) -> Reply:
    """Who can be a member of a panel."""
    _need_no_query(call, "healthy_only")
    told: dict[str, Any] = {"status": "success", "available_models": _names(service, call)}
    if "healthy_only" not in call.query:
        return json_reply(told)
    told["ignored"] = {"healthy_only": "a model that fails is passed over when it is asked"}
    return json_reply(told, {"x-orchestrator-ignored": "healthy_only"})


async def _models(service: Service, call: Call) -> Reply:
    """Who can be a member of a panel."""
    _need_no_query(call)
    return json_reply({"status": "success", "models": _names(service, call)})


async def _patterns(service: Service, call: Call) -> Reply:
    """The patterns there are."""
    _need_no_query(call)
    return json_reply(
        [
            {
                "name": name,
                "description": pattern.description,
                "stages": [stage.name for stage in pattern.stages],
            }
            for name, pattern in service.engine.patterns.items()
            if isinstance(pattern, Pattern)
        ]
    )


ROUTES: Mapping[tuple[str, str], Answering] = {
    ("POST", "/api/analyze"): _older(_analyze, _status_error, _RUNS),
    ("POST", "/api/orchestrator/analyze"): _older(_analyze_query, _unsuccessful, _RUNS),
    ("POST", "/api/orchestrator/analyze/stream"): _older(_stream_query, _unsuccessful, _RUNS),
    ("GET", "/api/available-models"): _older(_available_models, _status_error, _MODELS),
    ("GET", "/available-models"): _older(_available_models, _status_error, _MODELS),
    ("POST", "/orchestrator/process"): _older(_process, _status_error, _RUNS),
    ("POST", "/orchestrator/feather"): _older(_feather, _status_error, _RUNS),
    ("GET", "/orchestrator/models"): _older(_models, _status_error, _MODELS),
    ("GET", "/orchestrator/patterns"): _older(_patterns, _status_error, _MODELS),
}
