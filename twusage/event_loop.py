"""LoopBinding: binds an object to one event loop at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import ref

from twusage.errors import ConfigurationError

__all__ = ["LoopBinding", "running_loop", "running_task"]

_NO_LOOP = (
    "twusage needs asyncio, and no asyncio event loop is running here. Trio is not supported; after a fork, run a loop "
    "with a new client in each process"
)
_NO_TASK = (
    "twusage needs a running asyncio task, and nest_asyncio provides none on Python 3.14. A notebook can do "
    "without it: await the call in a cell"
)


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop. Raises ``ConfigurationError`` without one, as under trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        failure = ConfigurationError(_NO_LOOP)
    raise failure


def running_task() -> asyncio.Task[object]:
    """Return the running task. Raises ``ConfigurationError`` outside of one."""
    task = asyncio.current_task(running_loop())
    if task is None:
        raise ConfigurationError(_NO_TASK)
    return task


class LoopBinding:
    """Binds an object to an event loop until that loop is closed. Then its next use binds it to the next one.

    A program may call ``asyncio.run()`` once for each event, as on AWS Lambda, with an object that it keeps.

    Args:
        owner: the name of the object's class in messages.
        only_first: whether the first loop is the only one.
    """

    __slots__ = ("_loop", "_only_first", "_owner")

    def __init__(self, owner: str, *, only_first: bool = False) -> None:
        self._owner, self._only_first = owner, only_first
        # Weak, because an object may be kept as long as its loop (see ``limiter.default_limiter``).
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] | None = None

    @property
    def is_free(self) -> bool:
        """Whether there is no loop yet, or it is closed."""
        loop = self._loop and self._loop()
        return loop is None or loop.is_closed()

    def bind(self) -> bool:
        """Bind to the running loop; return whether it is a new one.

        Raises ``ConfigurationError`` if it is bound to another loop, which is not closed or must be the only one.
        """
        loop = running_loop()
        if self._loop is not None and self._loop() is loop:
            return False
        if not self.is_free or (self._only_first and self._loop is not None):
            raise ConfigurationError(f"{self._owner} is bound to another event loop; create one per loop and process")
        self._loop = ref(loop)
        return True
