"""How probable the simulated model finds its own words, in OpenAI's shape."""

from collections.abc import Sequence
from random import Random
from typing import Any

from orchestrator.simulator.words import tokens_of

MOST = 20  # other tokens that may be told beside each


def logprobs_of(pieces: Sequence[str], *, nonce: str, others: int) -> dict[str, Any]:
    """What is told of each token: by chance, and the same in a stream and in one piece.

    Args:
        pieces: The text as it is streamed.
        nonce: Of the answer, from which the chance comes.
        others: How many of the most probable tokens are told in each place, its own among them.
    """
    tokens = [token for piece in pieces for token in tokens_of(piece)]
    return {"content": [_told(token, nonce, others) for token in tokens], "refusal": None}


def _told(token: str, nonce: str, others: int) -> dict[str, Any]:
    chance = Random(f"{nonce}/{token}").random()
    ranked = [_one(f"{token}{rank or ''}", -rank - chance) for rank in range(max(1, others))]
    return {**ranked[0], "top_logprobs": ranked[:others]}


def _one(token: str, logprob: float) -> dict[str, Any]:
    spelt = list(token.encode("utf-8", "replace"))
    return {"token": token, "logprob": round(logprob, 6), "bytes": spelt}
