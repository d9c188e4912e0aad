"""How a process of our own looks for garbage. Never called where we are only a library."""

import atexit
import gc

# Python looks for cycles whenever 700 more objects have come than gone. Sixty requests under way
# are 20,000 that are all in use, walked again and again: a twentieth of all processor time.
MANY_OBJECTS = 20_000


def collect_seldom() -> None:
    """Look for garbage when some has come together, and not at the end.

    Then Python would search the modules of litellm for it, for a second or two, and nobody needs
    that of a process that ends; frozen, they are passed over.
    """
    gc.set_threshold(MANY_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
