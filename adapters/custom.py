"""Custom."""

from adapters.base import BaseAdapter


class CustomAdapter(BaseAdapter):
    """Custom."""
