"""Two short ways through litellm's calls, for those of our own and for nobody else's.

litellm has asyncio's thread pool prepare every request: for 1 to 3 ms of work two threads wait for
each other. And it asks twice, in its list of models, whether a call belongs to the Responses API,
where none of ours may go. Together that is a third of a call. Both ways are taken only where a
`Call` is set; whatever else runs litellm in this process finds it as it was.
"""

import asyncio
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from adapters._call import CURRENT

MOST_TOGETHER = 64  # messages and tools that are prepared in place
_prepared: set[tuple[str, ...]] = set()


def sort_of(kind: str, fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Which calls are prepared by the same code; None for what takes long, or fetches something.

    That code imports for up to 60 ms at the first call of a sort. It takes longer the more messages
    there are, however long they are; and of pictures and files some providers' is made to fetch
    what stands in them as an address.
    """
    messages, tools = fields.get("messages", ()), fields.get("tools", ())
    if len(messages) + len(tools) > MOST_TOGETHER:
        return None
    if any(isinstance(message.get("content"), list) for message in messages):
        return None
    return (kind, str(fields.get("model", "")).partition("/")[0], *sorted(fields))


class _Loop:
    """An event loop whose thread pool is the caller, once a call of its sort has been prepared."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def run_in_executor(
        self, executor: Any, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        call = CURRENT.get()
        sort = None if call is None else call.sort
        if sort in _prepared:
            return function(*arguments)
        prepared = await self._loop.run_in_executor(executor, function, *arguments)
        if sort is not None:
            _prepared.add(sort)
        return prepared


def _event_loop() -> Any:
    loop = asyncio.get_running_loop()
    return loop if CURRENT.get() is None else _Loop(loop)


def install(module: ModuleType) -> None:
    """Put both into the module that litellm's calls are in."""
    names = vars(module)
    theirs = ModuleType("asyncio")
    vars(theirs).update(vars(asyncio), get_event_loop=_event_loop)
    checks: Callable[..., tuple[dict[str, Any], str]] = names["responses_api_bridge_check"]

    def checked(model: str, *given: Any, **named: Any) -> tuple[dict[str, Any], str]:
        if CURRENT.get() is None or model.startswith("responses/"):
            return checks(model, *given, **named)
        return {}, model

    assert names["asyncio"] is asyncio, "litellm gets its event loop elsewhere"
    names.update(asyncio=theirs, responses_api_bridge_check=checked)
