"""`/v1/orchestrations`: runs in the orchestrator's own words, and their receipts."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import unquote

from orchestrator.config import RequestConfig
from orchestrator.endpoints.calls import JSON, Call, Reply, Service
from orchestrator.endpoints.streams import DONE, named, streamed
from orchestrator.resolve import default_name
from orchestrator.wire import native, orchestration
from orchestrator.wire.errors import Fault, Refused
from orchestrator.wire.writing import dump


async def answer(service: Service, call: Call) -> Reply:
    """A finished run with its receipt, or its events as they happen."""
    request, is_streamed = native.asked_of(call.body, tenant=call.tenant)
    call.need_run(request, _asked_for(service, request))
    if is_streamed:
        return await streamed(service, _events(service, request), failure=_failure)
    response = await service.engine.execute_request(request)
    return Reply(
        headers={**JSON, **orchestration.headers([response], {})},
        body=native.response_json(response),
    )


async def answer_one(service: Service, call: Call) -> Reply:
    """The receipt of a run, to whom it belongs."""
    run_id = unquote(call.path.removeprefix("/v1/orchestrations/"))
    receipt = await service.engine.receipt(run_id, tenant=call.tenant)
    if receipt is None:
        raise Refused(
            f"There is no receipt of a run {run_id!r}; it may still go on",
            status=404,
            code="not_found",
        )
    return Reply(headers=JSON, body=receipt.to_json(indent=None))


def _asked_for(service: Service, request: RequestConfig) -> str:
    """The name of a run's model, or of the default that stands in for nobody."""
    named = (request.model, *(request.members or ()))
    return next((name for name in named if name), None) or default_name(service.engine.config)


async def _events(service: Service, request: RequestConfig) -> AsyncGenerator[bytes, None]:
    async with aclosing(service.engine.stream_request(request)) as events:
        async for event in events:
            yield named(*native.event_json(event))
    yield DONE


def _failure(told: Fault) -> bytes:
    return named("error", dump(told.body))
