"""Placeholder while the door is being built."""

from collections.abc import AsyncGenerator

from adapters.config import ModelConfig
from adapters.types import Chunk, Completion, CompletionRequest, Limits, collect


class BaseAdapter:
    def __init__(self, config: ModelConfig, *, deployment: str = "") -> None:
        self.config = config
        self.deployment = deployment

    def named(self) -> dict[str, str]:
        return {"provider": self.config.provider.value, "deployment": self.deployment}

    def is_available(self) -> bool:
        return True

    async def complete(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> Completion:
        return await collect(self.stream(request, limits=limits))

    def stream(
        self, request: CompletionRequest, *, limits: Limits = Limits()
    ) -> AsyncGenerator[Chunk, None]:
        raise NotImplementedError

    async def generate(self, prompt: str) -> str:
        request = CompletionRequest(messages=[{"role": "user", "content": prompt}])
        return (await self.complete(request)).text

    async def aclose(self) -> None:
        return None
