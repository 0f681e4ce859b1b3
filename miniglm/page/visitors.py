"""One thread that computes for all visitors of the page and all clients of its port, at the same time."""

import asyncio
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from miniglm.decoding import RunningBatch
from model import MiniGLM

Item = TypeVar("Item")
UPDATES = 20  # of pages in a second, all visitors' together: each costs as much as some tokens
MOST_AHEAD = 256  # items that are computed before a visitor takes some; a text whose ids are not taken rests


@dataclass(eq=False)
class Visitor:
    """One who is told what a generator gives."""

    generator: Iterator
    shows: Callable[[Any], bool]  # whether an item is worth telling the first time
    updates: float  # how often one is told more, in a second, all visitors together
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to be told
    items: deque = field(default_factory=deque)  # not told yet
    seen: bool = False  # whether something has been shown
    ended: bool = False
    error: BaseException | None = None  # of the generator
    told: float = 0.0  # when, by time.perf_counter

    def advance(self):
        """Compute an item."""
        try:
            item = next(self.generator)
        except StopIteration:
            self.ended = True
        except BaseException as error:  # is raised where the items are waited for
            self.ended, self.error = True, error
        else:
            if item is not None and item != []:  # it waits for its batch
                self.items.append(item)
                self.seen = self.seen or self.shows(item)

    @property
    def full(self) -> bool:
        """Whether as much is there as is computed before some is taken."""
        return len(self.items) >= MOST_AHEAD

    def tell(self, visitors: int):
        """Wake who waits for the items, where it is time to."""
        worth = self.seen and self.items and time.perf_counter() - self.told > visitors / self.updates
        if worth or self.full or self.ended:
            self.told = time.perf_counter()
            try:
                self.loop.call_soon_threadsafe(self.ready.set)
            except RuntimeError:  # the loop has ended, and nobody waits
                self.ended = True


class Visitors:
    """A thread that computes for all: in each round every batch takes a step, and every visitor gets an item.

    No other thread may compute: OpenMP would have a team of threads for each of them, and three times slower ones,
    since they then wait for each other asleep.
    """

    def __init__(self):
        self.calls: queue.SimpleQueue[tuple[Future, Callable, tuple]] = queue.SimpleQueue()
        self.visiting: list[Visitor] = []  # those for whom items are computed
        self.batches: weakref.WeakSet[RunningBatch] = weakref.WeakSet()
        threading.Thread(target=self.work, daemon=True).start()

    def batch_of(self, model: MiniGLM) -> RunningBatch:
        """A batch of a model in which all visitors' texts grow together, see decoding.generate."""
        batch = RunningBatch(model, shared=True)
        self.batches.add(batch)
        return batch

    def work(self):
        """Do what is called for, then a round; rest while nobody is there."""
        while True:
            while not self.visiting or not self.calls.empty():
                if not self.visiting:
                    self.all_batches(RunningBatch.settle)  # the last who has gone leaves no cache behind
                self.answer(*self.calls.get())
            self.all_batches(RunningBatch.step)
            for visitor in list(self.visiting):
                visitor.advance()
                visitor.tell(len(self.visiting))
                if visitor.ended or visitor.full:
                    self.visiting.remove(visitor)

    def all_batches(self, do: Callable[[RunningBatch], None]):
        """Let every batch do something."""
        for batch in list(self.batches):
            try:
                do(batch)
            except Exception as error:  # is raised in the generators of those whose texts are in it
                batch.fail(error)

    def answer(self, future: Future, function: Callable, arguments: tuple):
        """Call a function, whose future is given what comes of it."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # is raised where the result is waited for
            future.set_exception(error)

    def submit(self, function: Callable, *arguments) -> Future:
        """Call a function before the next round."""
        future: Future = Future()
        self.calls.put((future, function, arguments))
        return future

    async def compute(self, function: Callable, *arguments):
        """What a function gives, called before the next round."""
        return await asyncio.wrap_future(self.submit(function, *arguments))

    def come(self, visitor: Visitor):
        """Compute for a visitor from now on, whose text so joins its batch before the next step."""
        if visitor not in self.visiting and not visitor.ended:
            self.visiting.append(visitor)
            visitor.advance()

    def go(self, visitor: Visitor):
        """Compute no more for a visitor, who has pressed stop or closed the page."""
        if visitor in self.visiting:
            self.visiting.remove(visitor)
        visitor.ended = True
        close = getattr(visitor.generator, "close", None)
        if close:
            close()

    async def gathered(
        self,
        generator: Iterator[Item | None],
        shows: Callable[[Item], bool] = lambda item: True,
        updates: float = UPDATES,
    ) -> AsyncGenerator[list[Item]]:
        """The items of a generator, one a round, in lists; None and [] tell that it waits, and are left out.

        The first list comes with the first item that shows something, others not oftener than `updates` a second, all
        visitors' together.
        """
        visitor = Visitor(generator, shows, updates)
        self.submit(self.come, visitor)
        try:
            while True:
                await visitor.ready.wait()
                visitor.ready.clear()
                ended = visitor.ended
                if items := [visitor.items.popleft() for _ in range(len(visitor.items))]:
                    yield items
                if visitor.error:
                    raise visitor.error
                if ended:
                    return
                self.submit(self.come, visitor)
        finally:
            self.submit(self.go, visitor)


async def together(generators: Sequence[AsyncGenerator[Item]], most: int) -> AsyncGenerator[tuple[int, Item]]:
    """(its number, an item) of generators, as the items come, of so many at most at once; they are closed with it."""
    coming, waiting = deque(range(len(generators))), {}
    try:
        while coming or waiting:
            while coming and len(waiting) < most:
                number = coming.popleft()
                waiting[asyncio.ensure_future(anext(generators[number]))] = number
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda each: waiting[each]):
                number = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                coming.appendleft(number)
                yield number, item
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for each in generators:
            await each.aclose()
