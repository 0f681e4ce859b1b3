"""Where a training's batches come from: what is written in a data set, or answers that the model itself draws.

A source gives the batches of a step, of this process and on its device, and tells how good a model is on others. What
is written is made ready ahead; what the model draws is in rollouts.py.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from miniglm.batch import Batch
from miniglm.parallel import Group

# The log-probabilities of a batch's targets under the model that is kept near.
Reference = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Steps:
    """How a run is cut into batches, and which of them are this process's."""

    batch_size: int  # rows of a batch
    accumulation: int  # batches of a step, over all processes together
    block_size: int
    seed: int
    group: Group

    def numbers(self, step: int) -> range:
        """The numbers of the batches that this process reads in a step."""
        of_the_step = range(step * self.accumulation, (step + 1) * self.accumulation)
        return of_the_step[self.group.rank :: self.group.size]


class Source(Protocol):
    """Where batches come from."""

    steps_a_draw: int  # how many steps read what was drawn at once; a run can stop and go on only between draws

    def take(self, step: int) -> list[Batch]:
        """The batches that this process reads in a step, on its device."""
        ...

    def estimate(self, split: str, index: int, loss_on: Callable[[Batch], float]) -> float:
        """The loss on batch number `index` of a split, the same one each time and in every process."""
        ...

    def figures(self) -> dict[str, float]:
        """What there is to tell of the last step's batches, beside their loss."""
        ...

    def closing(self) -> str:
        """What there is to tell of this process's batches in the end; "" for nothing."""
        ...


class Written:
    """Batches of a data set, each a function of its number and the seed alone."""

    steps_a_draw = 1

    def __init__(self, data, steps: Steps, reference: Reference | None = None):
        """data: what open_data gives. reference: whose log-probabilities the batches carry, too."""
        self.data, self.steps, self.reference = data, steps, reference
        self.ahead = Ahead(lambda step: [self.numbered("train", number) for number in steps.numbers(step)])

    def numbered(self, split: str, number: int) -> Batch:
        """A batch on the CPU."""
        return self.data.batch(split, self.steps.batch_size, self.steps.block_size, number, self.steps.seed)

    def ready(self, batch: Batch) -> Batch:
        """A batch on the device, with what the reference says of it."""
        batch = batch.to(self.steps.group.device)
        return replace(batch, reference=self.reference(batch)) if self.reference else batch

    def take(self, step: int) -> list[Batch]:
        """See Source; the next step's are made ready meanwhile."""
        return [self.ready(batch) for batch in self.ahead.take(step)]

    def estimate(self, split: str, index: int, loss_on: Callable[[Batch], float]) -> float:
        """See Source."""
        return loss_on(self.ready(self.numbered(split, index)))

    def figures(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def closing(self) -> str:
        """Nothing."""
        return ""


class Ahead:
    """Makes the next step's batches ready in a thread while the present ones are learnt."""

    def __init__(self, batches_of: Callable[[int], list[Batch]]):
        """batches_of: a function that gives the batches of a step, on the CPU."""
        self._batches_of, self._thread = batches_of, ThreadPoolExecutor(1)
        self._step = self._made = None

    def take(self, step: int) -> list[Batch]:
        """The batches of a step, on the CPU."""
        if self._made is None or self._step != step:  # the first, or the run has gone back
            self._made = self._thread.submit(self._batches_of, step)
        batches = self._made.result()
        self._step, self._made = step + 1, self._thread.submit(self._batches_of, step + 1)
        return batches
