"""Thin adapters over litellm's unified completion call: six providers, one trustworthy answer."""

from adapters._litellm import is_loading
from adapters._litellm import load as preload
from adapters._scrub import Redactor
from adapters.base import BaseAdapter
from adapters.config import LLMProvider, ModelConfig, PriceConfig
from adapters.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    EmptyAnswer,
    InvalidRequest,
    MalformedResponse,
    ModelNotFound,
    PermissionDenied,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamBroken,
)
from adapters.factory import ADAPTERS, create_adapter
from adapters.mock import MockAdapter
from adapters.types import (
    Chunk,
    Completion,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Limits,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)

__all__ = [
    "ADAPTERS",
    "AuthenticationFailed",
    "BaseAdapter",
    "Chunk",
    "Completion",
    "CompletionRequest",
    "ConnectionFailed",
    "ContentFiltered",
    "ContextWindowExceeded",
    "EmbeddingRequest",
    "Embeddings",
    "EmptyAnswer",
    "InvalidRequest",
    "LLMProvider",
    "Limits",
    "MalformedResponse",
    "MockAdapter",
    "ModelConfig",
    "ModelNotFound",
    "PermissionDenied",
    "PriceConfig",
    "ProviderError",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QuotaExhausted",
    "RateLimited",
    "Redactor",
    "StreamBroken",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
    "collect",
    "create_adapter",
    "is_loading",
    "preload",
]
