"""Waiting for what the system does in its own time."""

import time


def settles(condition):
    """Whether the condition comes true; a joined thread, for one, stays in /proc for a moment."""
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True
