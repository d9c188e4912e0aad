"""One question to a panel of language models, one synthesised answer with a receipt."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.config import LLMProvider as LLMProvider
    from adapters.config import ModelConfig as ModelConfig
    from orchestrator.base import BaseOrchestrator as BaseOrchestrator
    from orchestrator.client import AsyncOpenAI as AsyncOpenAI
    from orchestrator.client import OpenAI as OpenAI
    from orchestrator.config import OrchestratorConfig as OrchestratorConfig
    from orchestrator.config import RequestConfig as RequestConfig
    from orchestrator.config import load_config as load_config
    from orchestrator.enhanced import EnhancedOrchestrator as EnhancedOrchestrator
    from orchestrator.responses import OrchestratorResponse as OrchestratorResponse

# Loaded when first asked for: the command line is a sub-module and must start without the engine.
_PUBLIC = {
    "AsyncOpenAI": "orchestrator.client",
    "BaseOrchestrator": "orchestrator.base",
    "EnhancedOrchestrator": "orchestrator.enhanced",
    "LLMProvider": "adapters.config",
    "ModelConfig": "adapters.config",
    "OpenAI": "orchestrator.client",
    "OrchestratorConfig": "orchestrator.config",
    "OrchestratorResponse": "orchestrator.responses",
    "RequestConfig": "orchestrator.config",
    "load_config": "orchestrator.config",
}

__all__ = [
    "AsyncOpenAI",
    "BaseOrchestrator",
    "EnhancedOrchestrator",
    "LLMProvider",
    "ModelConfig",
    "OpenAI",
    "OrchestratorConfig",
    "OrchestratorResponse",
    "RequestConfig",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
