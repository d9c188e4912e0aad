"""One call in several attempts: what of each is handed out, and what is asked of the next."""

from collections.abc import Sequence

from adapters import Chunk, CompletionRequest
from adapters.types import ToolCallDelta
from orchestrator.channel import Channel, Delivery
from orchestrator.pursuit import Piece

REQUEST = CompletionRequest(messages=[{"role": "user", "content": "Why?"}])


async def handed_out(chunks: Sequence[Chunk]) -> list[str]:
    """What stands after each chunk of a first attempt."""
    delivery = Delivery(Channel())
    piece = Piece(REQUEST, delivery)
    stood = []
    for chunk in chunks:
        await piece.hand_on(chunk)
        stood.append(delivery.content)
    return stood


async def test_white_space_is_handed_out_with_the_first_word() -> None:
    """Nothing of it is lost, and nobody has seen a word before there is one."""
    chunks = [Chunk(text=" \n"), Chunk(text="\t"), Chunk(text=" So"), Chunk(text=" be it ")]

    assert await handed_out(chunks) == ["", "", " \n\t So", " \n\t So be it "]


async def test_white_space_stands_where_something_else_than_words_follows() -> None:
    """A tool call, or the end of an answer that a limit has cut."""
    call = ToolCallDelta(index=0, id="1", name="look", arguments="{}")

    assert await handed_out([Chunk(text="\n"), Chunk(tool_calls=(call,))]) == ["", "\n"]
    assert await handed_out([Chunk(text="\n"), Chunk(finish_reason="length")]) == ["", "\n"]
