"""Cohere."""

from adapters.base import BaseAdapter


class CohereAdapter(BaseAdapter):
    """Cohere."""
