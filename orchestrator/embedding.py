"""What is different about a run that embeds: who may stand in for whom, and what it comes to."""

from dataclasses import dataclass

from adapters.types import Completion, EmbeddingRequest, Embeddings
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import InvalidRun
from orchestrator.resolve import Target
from orchestrator.responses import EmbeddingsResponse
from orchestrator.run import Run

# What a request for answers may say, and one for vectors may not.
_OF_ANSWERS = (
    "prompt",
    "messages",
    "system",
    "pattern",
    "members",
    "synthesizer",
    "tools",
    "tool_choice",
    "response_format",
    "max_tokens",
    "temperature",
    "top_p",
    "stop",
    "reasoning_effort",
)


@dataclass(slots=True)
class Wanted:
    """What is to be embedded, and the vectors once they are there."""

    request: EmbeddingRequest
    found: Embeddings | None = None

    def keep(self, found: Embeddings) -> Completion:
        """Keep the vectors. Returns what the records say of the call: it has no text."""
        self.found = found
        return Completion(text="", finish_reason="stop", model=found.model, usage=found.usage)


def titled(request: RequestConfig, what: EmbeddingRequest) -> RequestConfig:
    """The request with a line in place of a prompt, for the records: the inputs are not kept.

    Raises:
        InvalidRun: there is nothing to embed, or something that only answers have is asked for.
    """
    if not what.inputs:
        raise InvalidRun("There is nothing to embed: give one input or more")
    given = [name for name in _OF_ANSWERS if getattr(request, name) is not None]
    if given:
        raise InvalidRun(f"{given[0]!r} is of answers, and this asks for embeddings; leave it out")
    return request.model_copy(update={"prompt": f"({len(what.inputs)} inputs to embed)"})


def need_one_model(target: Target, config: OrchestratorConfig) -> None:
    """Raise `InvalidRun` where vectors of more than one model could come back.

    Those of different models do not mix: a store of both finds nothing again.
    """
    if not target.is_plain:
        raise InvalidRun(
            f"{target.name!r} asks several models, whose vectors do not mix; "
            "name one deployment, or a route"
        )
    (member,) = target.members
    models = sorted({config.models[name].model for name in member.deployments})
    if len(models) > 1:
        raise InvalidRun(
            f"{target.name!r} leads to {len(models)} models, {', '.join(map(repr, models))}, whose "
            "vectors do not mix; name one deployment, or a route whose deployments have one model"
        )


def response_of(run: Run, wanted: Wanted) -> EmbeddingsResponse:
    """What a run has come to whose call has succeeded."""
    assert wanted.found is not None, "its call has succeeded"
    return EmbeddingsResponse(
        vectors=wanted.found.vectors,
        model=wanted.found.model,
        receipt=run.receipt("complete", tuple(run.causes)),
    )
