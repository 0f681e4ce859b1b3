"""What a training minimises: each objective against a float64 reference written from its formula, and against trl."""

import math
from dataclasses import replace

import pytest
import torch

from miniglm import objectives
from miniglm.batch import Batch
from miniglm.machine import evaluating
from miniglm.rollouts import Drawing, generalised_advantages
from model import GLMConfig, MiniGLM

SHAPE = GLMConfig(block_size=32, vocab_size=50, n_layer=2, n_head=2, n_embd=16, value_head=True)
SPANS = [[(0, 9, 4), (9, 19, 6), (19, 24, 2), (24, 31, 5)], [(0, 12, 3), (12, 20, 5)]]  # (from, to, learned) a row


@pytest.fixture
def network():
    """A small random model with a value head."""
    torch.manual_seed(1)
    model = MiniGLM(SHAPE).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def batch(network):
    """Two rows of answers, two pairs and one, with filling behind them, and what objectives ask for."""
    torch.manual_seed(2)
    ids, mask = torch.randint(50, (2, 33)), torch.zeros(2, 33)
    sample = torch.full((2, 33), -1)
    for row, spans in enumerate(SPANS):
        for number, (start, stop, learned) in enumerate(spans):
            sample[row, start:stop] = number
            mask[row, stop - learned : stop] = 1
        sample[row, spans[-1][1] :] = len(spans)
    batch = Batch(ids[:, :-1], ids[:, 1:], mask[:, 1:], sample[:, :-1], paired=True)
    drawn = [torch.randn(2, 32) for _ in range(4)]
    with torch.no_grad():
        now = objectives.log_probs_of(network, batch).float()
    reference, before = (now + 0.2 * each * batch.loss_mask for each in drawn[:2])
    return replace(batch, reference=reference, before=before, advantages=drawn[2], returns=drawn[3])


def each_answer(network, batch):
    """[(row, places of its learned targets, their log-probabilities, values of all positions, its end)], each alone."""
    found = []
    for row, spans in enumerate(SPANS):
        for start, stop, learned in spans:
            ids = batch.ids[row : row + 1, start:stop]
            x = network.hidden(ids)
            log_probs = network.logits(x).log_softmax(-1)[0]
            values = network.value_head(x)[0, :, 0]
            places = torch.arange(stop - learned - 1, stop - 1)
            targets = batch.targets[row, places]
            found.append((row, places, log_probs[places - start, targets], values[places - start], values[-1]))
    return found


def gradients(network):
    """All gradients, one after the other, which are forgotten then."""
    found = torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])
    network.zero_grad()
    return found


def assert_equal(network, loss, expected):
    """The same loss and the same gradients."""
    loss.backward()
    ours = gradients(network)
    expected.backward()
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-5) and abs(loss.item()) > 1e-3
    theirs = gradients(network)
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5) and ours.abs().max() > 1e-3


def test_a_reward_models_loss(network, batch):
    """-log sigmoid of the difference of the scores at the answers' last tokens, over three pairs."""
    ends = [end for *_, end in each_answer(network, batch)]
    expected = sum(-torch.log(torch.sigmoid(ends[i] - ends[i + 1])) for i in (0, 2, 4)) / 3
    assert batch.weight == 3
    assert_equal(network, objectives.reward(network, batch), expected)


@pytest.mark.parametrize("smoothing, likelihood_weight", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.7)])
def test_dpos_loss(network, batch, smoothing, likelihood_weight):
    """The difference of how much each answer has gained on the reference, with smoothing, with the likelihood."""
    gained, better = [], []
    for row, places, log_probs, *_ in each_answer(network, batch):
        gained.append((log_probs - batch.reference[row, places]).sum())
        better.append(log_probs)
    margins = [0.3 * (gained[i] - gained[i + 1]) for i in (0, 2, 4)]
    wins, loses = (sum(-torch.log(torch.sigmoid(sign * margin)) for margin in margins) / 3 for sign in (1, -1))
    likelihood = torch.cat([better[i] for i in (0, 2, 4)]).mean()
    expected = (1 - smoothing) * wins + smoothing * loses - likelihood_weight * likelihood
    assert_equal(network, objectives.dpo(network, batch, 0.3, smoothing, likelihood_weight), expected)


def clipped(log_probs, batch, row, places):
    """min(ratio A, clip(ratio) A) of some tokens."""
    ratio, worth = torch.exp(log_probs - batch.before[row, places]), batch.advantages[row, places]
    return torch.minimum(ratio * worth, torch.clip(ratio, 0.8, 1.2) * worth)


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_grpos_loss(network, batch, beta):
    """The clipped gain of each token less the divergence's estimate, the mean over all tokens."""
    batch, tokens = replace(batch, paired=False, reference=batch.reference if beta else None), []
    for row, places, log_probs, *_ in each_answer(network, batch):
        gain = clipped(log_probs, batch, row, places)
        if beta:
            further = batch.reference[row, places] - log_probs
            gain = gain - beta * (torch.exp(further) - further - 1)
        tokens.append(gain)
    assert_equal(network, objectives.grpo(network, batch, beta), -torch.cat(tokens).mean())


def test_ppos_loss(network, batch):
    """The clipped gain, and half the squared error of what the critic expects before each token."""
    batch, tokens = replace(batch, paired=False), []
    for row, places, log_probs, values, _ in each_answer(network, batch):
        error = (values - batch.returns[row, places]) ** 2 / 2
        tokens.append(0.5 * error - clipped(log_probs, batch, row, places))
    assert_equal(network, objectives.ppo(network, batch), torch.cat(tokens).mean())


def test_many_targets_are_computed_in_chunks(network, batch, monkeypatch):
    """The same log-probabilities and gradients where no more than 256 rows of logits stand in memory."""
    wide = replace(batch, **{name: getattr(batch, name).repeat(20, 1) for name in ("ids", "targets", "sample")})
    wide = replace(wide, loss_mask=torch.ones(40, 32), temperature=1.7)
    found = []
    for logits in (1 << 26, 1):
        monkeypatch.setattr("model.ChunkedCrossEntropy.LOGITS", logits)
        log_probs = objectives.log_probs_of(network, wide)
        log_probs.square().sum().backward()
        found.append((log_probs.detach(), gradients(network)))
    assert all(torch.allclose(one, other, atol=1e-9) for one, other in zip(*found))
    with torch.no_grad(), evaluating(network):
        logits = network.logits(network.hidden(wide.ids, wide.sample)) / 1.7
    expected = logits.log_softmax(-1).gather(-1, wide.targets[..., None])[..., 0]
    assert torch.allclose(found[0][0].double(), expected, atol=1e-5)


def test_generalised_advantages():
    """By the sum of discounted surprises, written out; with lambda 1 what came less what was expected."""
    rewards, values = torch.tensor([0.1, -0.2, 1.0]), torch.tensor([0.5, 0.4, 0.7])
    surprises = [0.1 + 0.9 * 0.4 - 0.5, -0.2 + 0.9 * 0.7 - 0.4, 1.0 - 0.7]
    expected = [sum(surprises[j] * (0.9 * 0.8) ** (j - i) for j in range(i, 3)) for i in range(3)]
    drawing = Drawing(1, 1, 1.0, 1, True, 0.0, 0.9, 0.8)
    assert torch.allclose(generalised_advantages(rewards, values, drawing), torch.tensor(expected))
    drawing = Drawing(1, 1, 1.0, 1, True, 0.0, 1.0, 1.0)
    assert torch.allclose(generalised_advantages(rewards, values, drawing), torch.tensor([0.4, 0.4, 0.3]))
