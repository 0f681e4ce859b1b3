"""One model for all visitors of the page: they take turns."""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
UPDATES = 20  # of pages in a second, all visitors' together: each costs as much as some tokens
FIRST_TURN, TURN = 0.2, 0.03  # seconds that one computes at a stretch before anything is shown, and then


class Visitors:
    """A thread that computes for all visitors: who has seen nothing yet goes first, then some tokens each in turn.

    No other thread may compute: OpenMP would have a team of threads for each of them, and three times slower ones,
    since they then wait for each other asleep.
    """

    def __init__(self):
        self.calls: queue.PriorityQueue = queue.PriorityQueue()
        self.numbers = itertools.count(1)
        self.shown: set[int] = set()  # the visitors to whom something is being shown at the moment
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        """Call what waits, the first in the order first."""
        while True:
            *_, future, function, arguments = self.calls.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # is raised where the result is waited for
                future.set_exception(error)

    def submit(self, function: Callable, *arguments, visitor: int | None = 0) -> Future:
        """Call a function in its turn: the lower the visitor's number the sooner, 0 before all.

        visitor: None for one who has seen something, who comes after those that have not, as they are called.
        """
        number, future = next(self.numbers), Future()
        order = (1, number) if visitor is None else (0, visitor)
        self.calls.put((*order, number, future, function, arguments))
        return future

    async def compute(self, function: Callable, *arguments, visitor: int | None = 0):
        """What a function gives, called in its turn; see submit."""
        return await asyncio.wrap_future(self.submit(function, *arguments, visitor=visitor))

    async def gathered(
        self, generator: Iterator[Item], shows: Callable[[Item], bool] = lambda item: True
    ) -> AsyncGenerator[list[Item]]:
        """The items of a generator, computed in its turns, in lists.

        The first list comes with the first item that shows something, others not oftener than pages are updated.
        """
        visitor, items, ended, updated = next(self.numbers), [], False, 0.0
        try:
            while not ended and not any(map(shows, items)):
                more, ended = await self.compute(take, generator, FIRST_TURN, shows, visitor=visitor)
                items += more
            while items or not ended:
                if ended or time.perf_counter() - updated > len(self.shown) / UPDATES:
                    yield items
                    items, updated = [], time.perf_counter()
                    self.shown.add(visitor)
                if not ended:
                    more, ended = await self.compute(take, generator, TURN, visitor=None)
                    items += more
        finally:  # also where the visitor has pressed stop or closed the page
            self.shown.discard(visitor)


def take(generator: Iterator[Item], seconds: float, until: Callable[[Item], bool] = lambda item: False):
    """(what a generator gives in so many seconds, or until an item of that kind; whether it has come to its end)."""
    items, started = [], time.perf_counter()
    for item in generator:
        items.append(item)
        if until(item) or time.perf_counter() - started > seconds:
            return items, False
    return items, True
