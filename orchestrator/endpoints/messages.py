"""`POST /v1/messages` and `POST /v1/messages/count_tokens`, as Anthropic has them."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.config import LLMProvider
from adapters.factory import create_adapter
from adapters.types import CompletionRequest
from orchestrator.config import RequestConfig
from orchestrator.endpoints.calls import Call, Reply, Service, json_reply
from orchestrator.endpoints.streams import named, streamed
from orchestrator.events import RunStarted
from orchestrator.resolve import Target, resolve
from orchestrator.wire import orchestration
from orchestrator.wire.chat import Asked
from orchestrator.wire.errors import Fault
from orchestrator.wire.messages import (
    CountBody,
    MessageEvents,
    MessagesBody,
    as_anthropic,
    asked_of,
    counted_of,
    message,
)
from orchestrator.wire.orchestration import Orchestration
from orchestrator.wire.reading import read_body
from orchestrator.wire.writing import dump

PATH = "/v1/messages"


async def answer(service: Service, call: Call) -> Reply:
    """A message, or the events of one."""
    body = read_body(MessagesBody, call.body)
    how = body.orchestration or Orchestration()
    for name in (body.model, *(how.members or ()), how.synthesizer):
        if name is not None:
            call.need_model(name)
    wanted = RequestConfig.model_validate({**how.fields(), "model": body.model})
    providers = _providers(service, _target(service, wanted))
    asked = asked_of(body, providers=providers, headers=call.headers, tenant=call.tenant)
    if asked.is_streamed:
        told = orchestration.ignored_header(asked.ignored)
        return await streamed(service, _events(service, asked), headers=told, failure=failure)
    response = await service.engine.execute_request(asked.requests[0])
    return json_reply(message(asked, response), orchestration.headers([response], asked.ignored))


async def count(service: Service, call: Call) -> Reply:
    """How many tokens a prompt may come to: an estimate of ours, for who is asked first."""
    body = read_body(CountBody, call.body)
    call.need_model(body.model)
    request, ignored = counted_of(body)
    first = _target(service, request).members[0].deployments[0]
    adapter = create_adapter(service.engine.config.models[first], deployment=first)
    asked = CompletionRequest(messages=request.messages or (), tools=request.tools)
    pictures = _pictures(asked) * adapter.image_tokens()
    told = {"estimated": True, "deployment": first, **({"ignored": ignored} if ignored else {})}
    tokens = adapter.estimate(asked).prompt_tokens + pictures
    return json_reply(
        {"input_tokens": tokens, "orchestration": told}, orchestration.ignored_header(ignored)
    )


def speaks_anthropic(path: str) -> bool:
    """Whether errors under this path are told in Anthropic's words."""
    return path == PATH or path.startswith(f"{PATH}/")


def _target(service: Service, request: RequestConfig) -> Target:
    return resolve(request, service.engine.config, service.engine.patterns.keys())


def _providers(service: Service, target: Target) -> frozenset[LLMProvider]:
    """Of everybody who may be asked."""
    models = service.engine.config.models
    return frozenset(
        models[name].provider
        for member in (*target.members, *target.synthesizers)
        for name in member.deployments
    )


def _pictures(request: CompletionRequest) -> int:
    contents = [message.get("content") for message in request.messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return sum(part["type"] == "image_url" for part in parts)


async def _events(service: Service, asked: Asked) -> AsyncGenerator[bytes, None]:
    writer: MessageEvents | None = None
    async with aclosing(service.engine.stream_request(asked.requests[0])) as events:
        async for event in events:
            if isinstance(event, RunStarted):
                writer = MessageEvents(asked, event.run_id)
            for name, told in writer.of(event) if writer is not None else ():
                yield named(name, dump(told))


def failure(told: Fault) -> bytes:
    """An error as an event, in Anthropic's words."""
    return named("error", dump(as_anthropic(told).body))
