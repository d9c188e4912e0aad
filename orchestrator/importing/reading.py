"""Remember what of a file has been used, so that the rest can be told."""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from orchestrator.yaml_source import (
    ListNode,
    Loc,
    MappingNode,
    Node,
    Plain,
    ScalarNode,
    YamlSource,
)

# What is in these is told of one by one, whether or not any of it was used.
_TOLD_APART = ("litellm_params", "model_info", "parameters")


class Reading:
    """A file that is read value by value.

    Attributes:
        source: The file.
    """

    def __init__(self, source: YamlSource) -> None:
        self.source = source
        self._taken: set[Loc] = set()
        self._passed: set[Loc] = set()  # everything above what was taken

    def take(self, loc: Loc) -> Plain:
        """The single value at a path, which counts as used; None for one that is not there."""
        node = self.source.find(loc)
        if not isinstance(node, ScalarNode):
            return None
        self._taken.add(loc)
        self._passed.update(loc[:end] for end in range(len(loc)))
        return node.value

    def text(self, loc: Loc) -> str | None:
        """The text at a path, used; anything else is left for others to tell of."""
        node = self.source.find(loc)
        if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.value.strip():
            self.take(loc)
            return node.value
        return None

    def written(self, loc: Loc) -> str | None:
        """The single value at a path as the file has it, number or text, used."""
        node = self.source.find(loc)
        if isinstance(node, ScalarNode) and node.text.strip() and node.value is not None:
            self.take(loc)
            return node.text
        return None

    def number(
        self, loc: Loc, *, least: Decimal | int = 0, most: int = 10**15, is_whole: bool = False
    ) -> Decimal | None:
        """The number at a path, used, in quotes or not; anything else is left."""
        node = self.source.find(loc)
        if not isinstance(node, ScalarNode) or isinstance(node.value, bool):
            return None
        try:
            found = Decimal(str(node.value))
        except InvalidOperation:
            return None
        if not found.is_finite() or not least <= found <= most:
            return None
        if is_whole and found != found.to_integral_value():
            return None
        self.take(loc)
        return found

    def flag(self, loc: Loc) -> bool | None:
        """Whether a switch is on, used; None for one that is not there."""
        node = self.source.find(loc)
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            self.take(loc)
            return node.value
        return None

    def keys(self, loc: Loc) -> tuple[str, ...]:
        """The keys of the mapping at a path, none of which is used by that."""
        node = self.source.find(loc)
        return tuple(node.entries) if isinstance(node, MappingNode) else ()

    def indices(self, loc: Loc) -> range:
        """The places of the list at a path."""
        node = self.source.find(loc)
        return range(len(node.items)) if isinstance(node, ListNode) else range(0)

    def texts(self, loc: Loc) -> dict[Loc, str]:
        """The texts of a list at a path, or the single one there, used, each by its own path."""
        places = [loc, *((*loc, index) for index in self.indices(loc))]
        found = ((place, self.text(place)) for place in places)
        return {place: text for place, text in found if text is not None}

    def drop(self, loc: Loc) -> None:
        """Let a whole part of the file count as used: it has been told of."""
        self._taken.add(loc)
        self._passed.update(loc[:end] for end in range(len(loc)))

    def left(self) -> Iterator[Loc]:
        """Whatever was not used: of each section, the highest paths under which nothing was."""
        yield from self._left(self.source.root, ())

    def _left(self, node: Node, loc: Loc) -> Iterator[Loc]:
        if loc in self._taken or _is_nothing(node):
            return
        is_told_apart = len(loc) <= 1 or loc[-1] in _TOLD_APART
        if loc not in self._passed and not (is_told_apart and isinstance(node, MappingNode)):
            yield loc
        elif isinstance(node, MappingNode):
            for key, value in node.entries.items():
                yield from self._left(value, (*loc, key))
        elif isinstance(node, ListNode):
            for index, value in enumerate(node.items):
                yield from self._left(value, (*loc, index))


def _is_nothing(node: Node) -> bool:
    """Whether there is nothing there that could be lost."""
    match node:
        case ScalarNode(value=value):
            return value is None or value == ""
        case ListNode(items=inner):
            return not inner
        case MappingNode(entries=entries):
            return not entries
        case _:
            return False
