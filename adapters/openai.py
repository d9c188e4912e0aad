"""OpenAI."""

from adapters.base import BaseAdapter


class OpenAIAdapter(BaseAdapter):
    """OpenAI."""
