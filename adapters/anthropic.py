"""Anthropic."""

from adapters.base import BaseAdapter


class AnthropicAdapter(BaseAdapter):
    """Anthropic."""
