"""Mistral."""

from adapters.base import BaseAdapter


class MistralAdapter(BaseAdapter):
    """Mistral."""
