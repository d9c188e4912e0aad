"""Google."""

from adapters.base import BaseAdapter


class GoogleAdapter(BaseAdapter):
    """Google."""
