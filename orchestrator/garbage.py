"""How a process of our own looks for garbage. Never called where we are only a library."""

import atexit
import gc

# Python looks for cycles whenever 700 more objects have come than gone. Sixty requests under way
# are 20,000 that are all in use, walked again and again: a fifth of all processor time.
MANY_OBJECTS = 20_000


def collect_seldom() -> None:
    """Look for garbage when some has come together, in what is new, and not at the end.

    What a process has built before it begins to work stays: to walk it held up the loop for 0.1 s.
    At its end Python would search the modules of litellm, for a second or two, and nobody needs
    that of a process that ends; frozen, they are passed over.
    """
    gc.set_threshold(MANY_OBJECTS, *gc.get_threshold()[1:])
    gc.freeze()
    atexit.register(gc.freeze)
