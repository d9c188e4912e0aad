"""Paths that earlier versions served and this one does not, and what to use instead."""

import re
from collections.abc import Mapping

from orchestrator.endpoints.calls import JSON, Reply
from orchestrator.wire.writing import dump

_DOCUMENTS = "no documents are kept here; put their text into the prompt of POST /api/analyze"
_RECORD = "GET /v1/orchestrations/{id} has the record of a run, under the id that its reply names"
_STREAM = "a run is told of in its own stream: POST /api/orchestrator/analyze/stream"
_MODELS = "GET /v1/models tells which models there are, POST /v1/chat/completions asks one"
_HEALTH = "GET /health tells whether the gateway is alive, GET /ready whether it takes requests"

# A star stands for one part of a path.
_INSTEAD: Mapping[str, str] = {
    "/api/analyze-with-docs": _DOCUMENTS,
    "/api/analyze-document": _DOCUMENTS,
    "/api/document-analysis/*": _DOCUMENTS,
    "/api/upload-document": _DOCUMENTS,
    "/api/create-document-session": _DOCUMENTS,
    "/api/upload-document-chunk": _DOCUMENTS,
    "/api/finalize-document-upload": _DOCUMENTS,
    "/api/documents": _DOCUMENTS,
    "/api/documents/*": _DOCUMENTS,
    "/api/analyze/*/progress": _RECORD,
    "/api/analyze/*/results": _RECORD,
    "/api/analyze/stream": _STREAM,
    "/api/orchestrator/events": _STREAM,
    "/orchestrator/events": _STREAM,
    "/llms": _MODELS,
    "/llms/*": _MODELS,
    "/llms/*/status": _MODELS,
    "/patterns": "GET /orchestrator/patterns tells which patterns there are",
    "/analysis-modes": "GET /orchestrator/patterns tells which patterns there are",
    "/process": "POST /orchestrator/process asks a panel",
    "/api/resilient/analyze": "POST /api/analyze asks with retries and fallbacks of its own",
    "/api/orchestrator/status": _HEALTH,
    "/api/orchestrator/health": _HEALTH,
    "/api/models/api-keys-status": "`orchestrator models` tells the operator which keys are set",
    "/api/cache/stats": "GET /metrics counts, and `orchestrator cache` tells the operator",
}
_ANY_OF_THEM = re.compile(
    "|".join(
        f"(?P<_{place}>{re.escape(path).replace(re.escape('*'), '[^/]+')})"
        for place, path in enumerate(_INSTEAD)
    )
)
_MESSAGES = tuple(_INSTEAD.values())


def gone(path: str, marks: Mapping[str, str]) -> Reply | None:
    """What is replied under a path that was served once; None: it never was.

    Args:
        path: As it was asked for.
        marks: The headers of every reply to an older caller.
    """
    found = _ANY_OF_THEM.fullmatch(path)
    if found is None or found.lastgroup is None:
        return None
    message = f"{path} is not served any more: {_MESSAGES[int(found.lastgroup[1:])]}"
    told = {"status": "error", "message": message, "code": "gone", "param": None}
    return Reply(status=410, headers={**JSON, **marks}, body=dump(told))
