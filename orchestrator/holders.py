"""Who still needs what several have in common, so that the last to go closes it."""


class Holders:
    """Keeps, for things that are shared, by whom.

    >>> holders = Holders()
    >>> holders.hold("old", "ledger")
    >>> holders.hold("new", "ledger")
    >>> holders.let_go("old", "ledger"), holders.let_go("old", "ledger")
    (False, False)
    >>> holders.let_go("new", "ledger"), holders.let_go("new", "cache")
    (True, True)
    """

    def __init__(self) -> None:
        self._of: dict[object, set[object]] = {}

    def hold(self, holder: object, thing: object) -> None:
        """A thing is needed by one more."""
        self._of.setdefault(thing, set()).add(holder)

    def let_go(self, holder: object, thing: object) -> bool:
        """Whether nobody else needs it any more; of what was never shared, nobody does."""
        holders = self._of.get(thing, set())
        holders.discard(holder)
        if not holders:
            self._of.pop(thing, None)
        return not holders
