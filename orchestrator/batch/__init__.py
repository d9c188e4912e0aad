"""Ask the same of every row of a file, and lose nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.batch.shards import collect as collect
    from orchestrator.batch.shards import divide as divide
    from orchestrator.batch.shards import order_of as order_of
    from orchestrator.batch.shards import run_shard as run_shard

# Loaded when first asked for: a finished batch is recognised without what would run it.
__all__ = ["collect", "divide", "order_of", "run_shard"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'orchestrator.batch' has no attribute {name!r}")
    return getattr(importlib.import_module("orchestrator.batch.shards"), name)
