"""The most tokens that a prompt can come to, counted before it is sent, and quickly.

A token of text is at least one byte: the tokenizers in use are byte-level, or fall back to bytes
for what they do not know. So the bytes of a text bound its tokens, whoever counts them. For English
that is four times too much, which is nothing for a short prompt and a lot for a book; long ones are
sampled and counted, with a margin.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.types import CompletionRequest

MESSAGE_TOKENS = 16  # a role, and what stands around a message in a chat template
INPUT_TOKENS = 4  # the marks before and after an input to be embedded
TOOLS_TOKENS = 640  # what a provider says of tools in general: Anthropic's words are up to 530
SHORT_BYTES = 4_096  # up to here the bytes are the bound
SAMPLES = 4  # of a longer prompt, spread over it
SAMPLE_CHARACTERS = 400
# Media are billed by what they show or how long they sound, not by the length of their base64.
BYTES_A_TOKEN_OF_SOUND = 16  # 32 tokens a second, at four kilobits of sound or of film a second
SOUND_TOKENS = 1_024
FILE_TOKENS = 8_192  # beside one for each byte: a page is read as text and looked at as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowances:
    """What a provider may count that nobody can measure here."""

    preamble: int  # what it tells the model before the first message
    image: int  # the dearest picture
    unseen: int  # a file that only the provider can open: as much as fits into the window


@dataclass(slots=True)
class _Prompt:
    """A request taken apart: its texts, and the tokens of everything else."""

    allowances: Allowances
    texts: list[str] = field(default_factory=list)
    tokens: int = 0

    def add(self, message: Mapping[str, Any]) -> None:
        self.tokens += MESSAGE_TOKENS
        for name, value in message.items():
            if isinstance(value, str):
                if name != "role":
                    self.texts.append(value)
            elif name == "content" and isinstance(value, Sequence):
                for part in value:
                    self._add_part(part)
            elif value is not None:
                self.texts.append(_as_json(value))

    def _add_part(self, part: Any) -> None:
        if isinstance(part, Mapping):
            if isinstance(text := part.get("text"), str) and part.get("type") == "text":
                self.texts.append(text)
                return
            if (tokens := _media_tokens(part, self.allowances)) is not None:
                self.tokens += tokens
                return
        self.texts.append(_as_json(part))


def bound_prompt(
    request: CompletionRequest,
    allowances: Allowances,
    *,
    count: Callable[[str], int] | None,
    margin: float,
) -> int:
    """An upper bound of the tokens of a prompt.

    Args:
        request: What is to be sent.
        allowances: What the provider may count besides.
        count: A tokenizer, for long prompts; without one the bytes are the bound of those too.
        margin: How many times more tokens than `count` says another tokenizer may make.
    """
    prompt = _Prompt(allowances)
    for message in request.messages:
        prompt.add(message)
    if request.tools:
        prompt.tokens += TOOLS_TOKENS
        prompt.texts.append(_as_json(list(request.tools)))
    for given in (request.response_format, request.extra):
        if given:
            prompt.texts.append(_as_json(given))
    return allowances.preamble + prompt.tokens + _bound_texts(prompt.texts, count, margin)


def bound_inputs(
    inputs: Sequence[str] | Sequence[Sequence[int]],
    *,
    count: Callable[[str], int] | None,
    margin: float,
) -> int:
    """An upper bound of the tokens of inputs to be embedded, each with what is put around it."""
    texts = [one for one in inputs if isinstance(one, str)]
    tokens = sum(len(one) for one in inputs if not isinstance(one, str))
    return len(inputs) * INPUT_TOKENS + tokens + _bound_texts(texts, count, margin)


def _bound_texts(texts: list[str], count: Callable[[str], int] | None, margin: float) -> int:
    size = sum(map(_size, texts))
    if size > SHORT_BYTES and count is not None:
        size = min(size, math.ceil(size * _density(texts, count) * margin))
    return size


def _size(text: str) -> int:
    """The bytes of a text, as it stands or composed, as some tokenizers read it."""
    if text.isascii():
        return len(text)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > SHORT_BYTES:  # composing takes its time, and what it may add is lost in so much
        return size
    return max(size, len(unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")))


def _density(texts: list[str], count: Callable[[str], int]) -> float:
    """The most tokens a byte in samples of the texts."""
    samples = list(_samples("\n".join(texts)))
    return max(count(sample) / _size(sample) for sample in samples)


def _samples(text: str) -> Iterator[str]:
    last = max(len(text) - SAMPLE_CHARACTERS, 0)
    for number in range(SAMPLES):
        start = last * number // (SAMPLES - 1)
        yield text[start : start + SAMPLE_CHARACTERS]


def _media_tokens(part: Mapping[str, Any], allowances: Allowances) -> int | None:
    """The most that a picture, a sound, a film or a file can come to; None for other parts."""
    kind = str(part.get("type"))
    place = part.get(kind)
    if kind not in _MEDIA or place is None:
        return None
    fields = place if isinstance(place, Mapping) else {"url": place}
    source = next((str(fields[name]) for name in _SOURCES if fields.get(name)), "")
    is_here = "data" in fields or source.startswith("data:")
    shown = source[5:].partition("/")[0] if source.startswith("data:") else _MEDIA[kind]
    if shown == "image":
        return allowances.image
    if not is_here:
        return allowances.unseen
    size = len(source) * 3 // 4
    if shown in ("audio", "video"):
        return size // BYTES_A_TOKEN_OF_SOUND + SOUND_TOKENS
    return size + FILE_TOKENS


_SOURCES = ("url", "file_data", "data", "file_id")
_MEDIA = {
    "image_url": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "file": "file",
    "document_url": "file",
}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
