"""What a training minimises: functions of a network and a batch. They know no files, no loop and no optimizer.

All but the first learn from judgements: from pairs of a better and a worse answer (reward, dpo), or from answers that
the model itself has drawn and a reward has judged (grpo, ppo; see rollouts.py). A network is a MiniGLM or what wraps
one, see MiniGLM.forward.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from miniglm.batch import Batch

OVERFITTED = 0.01  # of the lowest validation loss of a run
ON_PAIRS, ON_ROLLOUTS, WITH_VALUES = ("reward", "dpo"), ("grpo", "ppo"), ("reward", "ppo")
WITH_REFERENCE = ("dpo", "grpo", "ppo")  # which keep near the model that they started from

Objective = Callable[..., torch.Tensor]  # of a network and a batch


def objective_of(settings: dict) -> Objective:
    """The objective that train.py's settings name, a function of a network and a batch."""
    s = settings
    return {
        "likelihood": likelihood,
        "reward": reward,
        "dpo": partial(dpo, beta=s["beta"], smoothing=s["label_smoothing"], likelihood_weight=s["likelihood_weight"]),
        "grpo": partial(grpo, beta=s["beta"], clip=s["clip"]),
        "ppo": partial(ppo, clip=s["clip"], value_weight=s["value_weight"]),
    }[s["objective"]]


def likelihood(network, batch: Batch) -> torch.Tensor:
    """The mean cross-entropy in nats, a scalar, over the batch's targets that count."""
    _, loss = network(batch.ids, batch.targets, batch.loss_mask, batch.sample)
    return loss


def of_each(network, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(log-probability of each target that counts, else 0; what a value head says before it), (B, T) float32 each."""
    at = batch.temperature
    return network(batch.ids, batch.targets, batch.loss_mask, batch.sample, each=True, temperature=at)


def log_probs_of(network, batch: Batch) -> torch.Tensor:
    """The log-probability of each target that counts, (B, T) float32, else 0."""
    return of_each(network, batch)[0]


def scores_of(network, batch: Batch) -> torch.Tensor:
    """What a reward model's value head says at the end of each sample, (B, T rounded down to even) float32."""
    _, values = network(batch.ids, sample=batch.sample, each=True)
    return values.gather(1, batch.ends)


def margins(batch: Batch, of_samples: torch.Tensor) -> torch.Tensor:
    """How much more the better answers of a batch's pairs have than the worse ones, (pairs,).

    of_samples: a number for each sample, (B, T rounded down to even).
    """
    return (of_samples[:, 0::2] - of_samples[:, 1::2])[batch.pairs]


def reward(network, batch: Batch) -> torch.Tensor:
    """The mean over pairs of -log P(the better answer wins), by Bradley and Terry (1952): a reward model's loss.

    P is the logistic function of the difference of the two scores (Ouyang et al. 2022, arXiv:2203.02155).
    """
    return -F.logsigmoid(margins(batch, scores_of(network, batch))).mean()


def dpo(network, batch: Batch, beta: float, smoothing: float = 0.0, likelihood_weight: float = 0.0) -> torch.Tensor:
    """The mean over pairs of direct preference optimisation's loss (Rafailov et al. 2023, arXiv:2305.18290).

    beta: how dear it is to leave batch.reference. smoothing: the share of pairs that are taken to be the wrong way
    round (Mitchell 2023). likelihood_weight: of the better answers' mean cross-entropy, added so that they do not
    become less likely, too (Pang et al. 2024, arXiv:2404.19733).
    """
    log_probs = log_probs_of(network, batch)
    assert batch.reference is not None
    margin = beta * margins(batch, batch.by_sample(log_probs - batch.reference))
    loss = -((1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)).mean()
    if likelihood_weight:
        sums, counts = (batch.by_sample(each)[:, 0::2][batch.pairs] for each in (log_probs, batch.loss_mask))
        loss = loss - likelihood_weight * sums.sum() / counts.sum()
    return loss


def clipped_gain(log_probs: torch.Tensor, batch: Batch, clip: float) -> torch.Tensor:
    """What each token gains, (B, T): its advantage times how much likelier it has become since it was drawn.

    Beyond 1 ± clip nothing more is gained (Schulman et al. 2017, arXiv:1707.06347).
    """
    assert batch.before is not None and batch.advantages is not None
    ratio = (log_probs - batch.before).exp()
    return torch.minimum(ratio * batch.advantages, ratio.clamp(1 - clip, 1 + clip) * batch.advantages)


def grpo(network, batch: Batch, beta: float, clip: float = 0.2) -> torch.Tensor:
    """The mean over tokens of group relative policy optimisation's loss (Shao et al. 2024, arXiv:2402.03300).

    beta: of the divergence from batch.reference, if there is one, estimated as exp(d) - d - 1. Every token weighs the
    same, however long its answer is (Yu et al. 2025, arXiv:2503.14476).
    """
    log_probs = log_probs_of(network, batch)
    loss = -clipped_gain(log_probs, batch, clip)
    if batch.reference is not None:
        further = batch.reference - log_probs
        loss = loss + beta * (further.exp() - further - 1)
    return (loss * batch.loss_mask).sum() / batch.weight


def ppo(network, batch: Batch, clip: float = 0.2, value_weight: float = 0.5) -> torch.Tensor:
    """The mean over tokens of proximal policy optimisation's loss (Schulman et al. 2017, arXiv:1707.06347).

    value_weight: of half the critic's squared error. The divergence from the reference is in the rewards.
    """
    log_probs, values = of_each(network, batch)
    assert values is not None and batch.returns is not None
    error = (values - batch.returns).square() / 2
    loss = value_weight * error - clipped_gain(log_probs, batch, clip)
    return (loss * batch.loss_mask).sum() / batch.weight


def is_overfitted(loss: float, lowest: float) -> bool:
    """Whether a validation loss has risen from the lowest one so far by more than chance."""
    return loss - lowest > OVERFITTED * abs(lowest)  # of what a reward is minimised by a loss may be negative
