"""One model for all visitors of the page: they take turns, token by token."""

import asyncio
import itertools
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")
UPDATES = 20  # of pages in a second, all visitors' together: each costs as much as some tokens


class Visitors:
    """A thread that computes for all visitors: who has seen nothing yet goes first, then a token each in turn.

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
    ) -> AsyncIterator[list[Item]]:
        """The items of a generator, each computed in its turn, in lists.

        The first list comes with the first item that shows something, others not oftener than pages are updated.
        """
        visitor, waiting, items, updated, end = next(self.numbers), True, [], 0.0, object()
        try:
            while (item := await self.compute(next, generator, end, visitor=visitor if waiting else None)) is not end:
                items.append(item)
                if waiting and shows(item) or not waiting and time.perf_counter() - updated > len(self.shown) / UPDATES:
                    yield items
                    items, updated, waiting = [], time.perf_counter(), False
                    self.shown.add(visitor)
            if items:
                yield items
        finally:  # also where the visitor has pressed stop or closed the page
            self.shown.discard(visitor)
