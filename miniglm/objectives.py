"""What a training minimises: functions of a network and a batch. They know no files, no loop and no optimizer."""

import torch

from miniglm.batch import Batch

OVERFITTED = 1.01  # times the lowest validation loss of a run


def likelihood(network, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy in nats, a scalar, over the batch's targets that count."""
    _, loss = network(batch.ids, batch.targets, batch.loss_mask, batch.sample)
    return loss


def is_overfitted(loss: float, lowest: float) -> bool:
    """Whether a validation loss has risen from the lowest one so far by more than chance."""
    return loss > OVERFITTED * lowest
