"""What a training minimises: functions of a network and a batch. They know no files, no loop and no optimizer."""

import torch

from miniglm.batch import Batch


def likelihood(network, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy in nats, a scalar, over the batch's targets that count."""
    _, loss = network(batch.ids, batch.targets, batch.loss_mask, batch.sample)
    return loss
