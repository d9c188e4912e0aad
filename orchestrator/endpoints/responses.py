"""`POST /v1/responses`."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from orchestrator.config import RequestConfig
from orchestrator.endpoints.calls import Call, Reply, Service, json_reply
from orchestrator.endpoints.streams import named, streamed
from orchestrator.wire import orchestration
from orchestrator.wire.chat import Json
from orchestrator.wire.errors import Fault
from orchestrator.wire.reading import read_body
from orchestrator.wire.response_events import ResponseEvents
from orchestrator.wire.responses import ResponsesBody, asked_of, response_json
from orchestrator.wire.writing import dump


async def answer(service: Service, call: Call) -> Reply:
    """A response, or the events of one."""
    asked = asked_of(read_body(ResponsesBody, call.body), tenant=call.tenant)
    for name in asked.names:
        call.need_model(name)
    if asked.is_streamed:
        told = ResponseEvents(asked, at=int(service.clock.now().timestamp()))

        def failure(fault: Fault) -> bytes:
            return _events(told.failed(fault))

        pieces = _pieces(service, asked.request, told)
        headers = orchestration.ignored_header(asked.ignored)
        return await streamed(service, pieces, headers=headers, failure=failure)
    response = await service.engine.execute_request(asked.request)
    return json_reply(
        response_json(asked, response),
        orchestration.headers([response], asked.unheard(response)),
        may_repeat=orchestration.is_recalled([response]),
    )


async def _pieces(
    service: Service, request: RequestConfig, told: ResponseEvents
) -> AsyncGenerator[bytes, None]:
    async with aclosing(service.engine.stream_request(request)) as events:
        async for event in events:
            if said := told.of(event):
                yield _events(said)


def _events(told: Sequence[Json]) -> bytes:
    return b"".join(named(one["type"], dump(one)) for one in told)
