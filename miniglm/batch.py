"""What travels from the data to the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, and which of their successors are to be predicted.

    Of pairs the samples 2 i and 2 i + 1 of a row are the better and the worse answer to one question. What the last
    four fields hold is there for the objectives that need it, see objectives.py.
    """

    ids: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64, one position ahead of ids
    loss_mask: torch.Tensor  # (B, T) float32, 1 where a target counts in the loss
    sample: torch.Tensor | None = None  # (B, T) int64, the number of the sample within a packed row
    seed: int = 0  # of what is random while it is learnt, dropout
    paired: bool = False  # whether these are pairs
    temperature: float = 1.0  # at which the answers were drawn
    reference: torch.Tensor | None = None  # (B, T) float32, log-probabilities under the model that is kept near
    before: torch.Tensor | None = None  # (B, T) float32, log-probabilities under the model that drew the answers
    advantages: torch.Tensor | None = None  # (B, T) float32, how much better a token did than was to be expected
    returns: torch.Tensor | None = None  # (B, T) float32, what a critic ought to have expected

    @property
    def weight(self) -> torch.Tensor:
        """Of how many the loss is a mean, targets that count or pairs: a float32 scalar on the batch's device."""
        return self.pairs.sum().float() if self.paired else self.loss_mask.sum()

    @property
    def pairs(self) -> torch.Tensor:
        """Which pairs there are, (B, T // 2) bool."""
        return self.by_sample(self.loss_mask)[:, 1::2] > 0

    @property
    def ends(self) -> torch.Tensor:
        """Where the last token of what is learnt of each sample stands, (B, T rounded down to even) int64, else 0."""
        assert self.sample is not None
        after = torch.arange(1, self.ids.size(1) + 1, device=self.ids.device) * self.loss_mask.long()
        places = torch.zeros_like(self.ids).scatter_reduce(1, self.sample, after, "amax")
        return places[:, : self.ids.size(1) // 2 * 2]

    def by_sample(self, values: torch.Tensor) -> torch.Tensor:
        """The sums of values (B, T) over the samples of each row, (B, T rounded down to even): a column a sample."""
        assert self.sample is not None
        return torch.zeros_like(values).scatter_add(1, self.sample, values)[:, : values.size(1) // 2 * 2]

    def to(self, device: str | torch.device) -> Batch:
        """This batch on `device`; from pinned memory and without waiting where that is CUDA."""
        pinned = "cuda" in str(device)

        def moved(tensor):
            tensor = tensor.contiguous()
            return (tensor.pin_memory() if pinned and tensor.device.type == "cpu" else tensor).to(
                device, non_blocking=pinned
            )

        return self.changed(moved)

    def row(self, number: int) -> Batch:
        """One row of it, as a batch of one."""
        return self.changed(lambda tensor: tensor[number : number + 1])

    def changed(self, function) -> Batch:
        """This batch with a function of a tensor applied to all of its."""
        tensors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        new = {name: function(value) for name, value in tensors.items() if isinstance(value, torch.Tensor)}
        return dataclasses.replace(self, **new)
