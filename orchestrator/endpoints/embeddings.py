"""`POST /v1/embeddings`."""

from orchestrator.endpoints.calls import Call, Reply, Service, json_reply
from orchestrator.wire import orchestration
from orchestrator.wire.embeddings import EmbeddingsBody, asked_of, embeddings_json
from orchestrator.wire.reading import read_body


async def answer(service: Service, call: Call) -> Reply:
    """A vector for each input."""
    asked = asked_of(read_body(EmbeddingsBody, call.body), tenant=call.tenant)
    call.need_run(asked.request, asked.model)
    response = await service.engine.embed(asked.what, asked.request)
    return json_reply(embeddings_json(asked, response), orchestration.headers([response], {}))
