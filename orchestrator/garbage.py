"""How a process of our own looks for garbage. Never called where we are only a library."""

import atexit
import gc

# Python looks for cycles whenever 700 more objects have come than gone. Sixty requests under way
# are 20,000 that are all in use, walked again and again: a fifth of all processor time.
MANY_OBJECTS = 20_000
# A server looks at what is a little older when that is 80,000 objects, which takes 50 ms, and at
# everything while nothing is under way: ten thousand requests are three million objects, and to
# walk those took two seconds. One that never rests does so all the same after six million more.
LITTLE_OLDER, OLD = 3, 80
_AT_REST = (MANY_OBJECTS, LITTLE_OLDER, OLD)
REST_AFTER = 10  # times it has looked at what is a little older


def collect_seldom() -> None:
    """Look for garbage when some has come together, in what is new, and not at the end.

    What a process has built before it begins to work stays: to walk it held up the loop for 0.1 s.
    At its end Python would search the modules of litellm, for a second or two, and nobody needs
    that of a process that ends; frozen, they are passed over.
    """
    gc.set_threshold(MANY_OBJECTS, *gc.get_threshold()[1:])
    gc.freeze()
    atexit.register(gc.freeze)


def collect_at_rest() -> None:
    """Look at everything when `rest` says that nothing is under way. Implies `collect_seldom`."""
    collect_seldom()
    gc.set_threshold(*_AT_REST)


def rest() -> None:
    """Nothing is under way: look for garbage everywhere, if that is due and left to us."""
    if gc.get_threshold() == _AT_REST and gc.get_count()[2] >= REST_AFTER:
        gc.collect()
