"""What travels from the data to the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens, and which of their successors are to be predicted."""

    ids: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64, one position ahead of ids
    loss_mask: torch.Tensor  # (B, T) float32, 1 where a target counts in the loss
    sample: torch.Tensor | None = None  # (B, T) int64, the number of the sample within a packed row
    seed: int = 0  # of what is random while it is learnt, dropout

    @property
    def weight(self) -> torch.Tensor:
        """How many targets count, a float32 scalar on the batch's device."""
        return self.loss_mask.sum()

    def to(self, device: str | torch.device) -> Batch:
        """This batch on `device`; from pinned memory and without waiting where that is CUDA."""
        pinned = "cuda" in str(device)

        def moved(tensor):
            tensor = tensor.contiguous()
            return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)

        sample = None if self.sample is None else moved(self.sample)
        return Batch(moved(self.ids), moved(self.targets), moved(self.loss_mask), sample, self.seed)

    def row(self, number: int) -> Batch:
        """One row of it, as a batch of one."""
        only = slice(number, number + 1)
        sample = None if self.sample is None else self.sample[only]
        return replace(
            self, ids=self.ids[only], targets=self.targets[only], loss_mask=self.loss_mask[only], sample=sample
        )
