"""`POST /v1/chat/completions`."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from orchestrator.endpoints.calls import Call, Reply, Service, json_reply
from orchestrator.endpoints.streams import DONE, data, merged, streamed
from orchestrator.events import Event, RunFinished, RunStarted
from orchestrator.responses import OrchestratorResponse
from orchestrator.wire import orchestration
from orchestrator.wire.chat import Asked, ChatBody, Chunks, Json, asked_of, completion
from orchestrator.wire.reading import read_body


async def answer(service: Service, call: Call) -> Reply:
    """A completion, or the chunks of one."""
    config = service.engine.config
    body = read_body(ChatBody, call.body)
    named = any(body.model in names for names in (config.models, config.routes, config.panels))
    asked = asked_of(body, tenant=call.tenant, is_configured=named)
    call.need_run(asked.requests[0], asked.model)
    if asked.is_streamed:
        told = orchestration.ignored_header(asked.ignored)
        return await streamed(service, _chunks(service, asked), headers=told)
    responses = await _answers(service, asked)
    return json_reply(
        completion(asked, responses),
        orchestration.headers(responses, asked.unheard(responses)),
        may_repeat=orchestration.is_recalled(responses),
    )


async def _answers(service: Service, asked: Asked) -> list[OrchestratorResponse]:
    """What the runs come to; if one fails, all of them are ended."""
    if len(asked.requests) == 1:
        return [await service.engine.execute_request(asked.requests[0])]
    runs = [asyncio.ensure_future(service.engine.execute_request(r)) for r in asked.requests]
    try:
        return await asyncio.gather(*runs)
    finally:
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)


async def _chunks(service: Service, asked: Asked) -> AsyncGenerator[bytes, None]:
    writers: list[Chunks] = []
    responses: dict[int, OrchestratorResponse] = {}
    at = int(service.clock.now().timestamp())
    streams = [service.engine.stream_request(request) for request in asked.requests]
    async with aclosing(merged(streams)) as events:
        async for index, event in events:
            if isinstance(event, RunStarted) and not writers:
                every = range(len(streams))
                writers = [Chunks(asked, run_id=event.run_id, at=at, index=i) for i in every]
            for chunk in _said(writers, index, event):
                yield data(chunk)
            if isinstance(event, RunFinished):
                responses[index] = event.response
    for chunk in writers[0].end([responses[index] for index in sorted(responses)]):
        yield data(chunk)
    yield DONE


def _said(writers: Sequence[Chunks], index: int, event: Event) -> list[Json]:
    """What an event is to the reader: choices begin in order, as openai's stream helper needs."""
    said = writers[index].of(event) if writers else []
    if not said:
        return []
    return [*(chunk for writer in writers[:index] for chunk in writer.begin()), *said]
