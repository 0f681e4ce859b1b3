"""The decoder by configuration: each knob, and every two of them together, and what does not go together."""

import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from miniglm import conversion, families
from miniglm.checkpoint import Checkpoint, save_checkpoint
from miniglm.decoding import Sampling, beam_search, generate
from miniglm.lora import Adapter, attach, merged_state
from miniglm.machine import cast_weights
from miniglm.tokenizer import Tokenizer
from miniglm.vocabulary import fingerprint
from model import ChunkedCrossEntropy, Dropout, GLMConfig, MiniGLM
from tools import fill_adapters, random_model

# Each a change of GPT-2's block; two that name the same knob are not tried together.
KNOBS = {
    "grouped heads": {"n_kv_head": 2},
    "one head of keys": {"n_kv_head": 1},
    "wide heads": {"head_dim": 24},
    "narrow MLP": {"n_inner": 80},
    "rms": {"norm": "rms"},
    "norms without weights": {"norm_weight": False},
    "norm on the embedding": {"embedding_norm": True},
    "the token before": {"previous_token": True},
    "norms on queries and keys": {"qk_norm": True},
    "norms behind": {"post_norms": True},
    "parallel": {"parallel": True},
    "relu squared": {"activation": "relu2"},
    "gelu": {"activation": "gelu"},
    "gate": {"activation": "silu", "gated": True},
    "rope": {"positions": "rope"},
    "rope of neighbours": {"positions": "rope", "rope_pairs": "neighbours", "rope_share": 0.5},
    "rope that is scaled": {"positions": "rope", "rope_scaling": "llama3:8,1,4,32", "rope_theta": 5e5},
    "alibi": {"positions": "alibi"},
    "a scale of its own": {"attention_scale": 0.12},
    "no biases": {"bias": False},
    "biases of queries alone": {"bias_at": "attention"},
    "a head of its own": {"tied": False, "head_bias": True},
    "multipliers": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_multiplier": 0.7},
}
PAIRS = [
    (one, other)
    for one, other in itertools.combinations(KNOBS, 2)
    if not KNOBS[one].keys() & KNOBS[other].keys() and {one, other} != {"parallel", "norms behind"}
]


def made(*names, **more):
    """A small random model with these knobs, its weights large enough that its choices differ."""
    return random_model(**({key: value for name in names for key, value in KNOBS[name].items()} | more))


def greedy(model, prompts, n, use_cache=True):
    """What each prompt is followed by."""
    steps = generate(model, prompts, n, Sampling(temperature=0), use_cache=use_cache)
    return [list(row) for row in zip(*(step.ids for step in steps))]


@pytest.mark.parametrize("names", [*((name,) for name in KNOBS), *PAIRS], ids=" and ".join)
def test_every_two_knobs_work_together(names):
    """Cached equals uncached, also beyond the block; a batch each row alone; packed rows each sample alone."""
    model = made(*names)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(64, (length,), generator=generator).tolist() for length in (3, 11, 20)]
    cached = greedy(model, prompts, 16)
    assert cached == greedy(model, prompts, 16, use_cache=False)
    assert cached == [greedy(model, [prompt], 16)[0] for prompt in prompts]
    a, b = torch.tensor(prompts[1]), torch.tensor(prompts[1][::-1])
    sample = torch.tensor([[0] * len(a) + [1] * len(b)])
    with torch.no_grad():
        packed = model.hidden(torch.cat([a, b])[None], sample)
        alone = torch.cat([model.hidden(a[None]), model.hidden(b[None])], dim=1)
        assert torch.allclose(packed, alone, atol=1e-5)
        far = model.hidden(torch.cat([a, b])[None])
        assert not torch.allclose(far[:, len(a) :], alone[:, len(a) :], atol=1e-3), (
            "a is seen by b where it is one text"
        )


@pytest.mark.parametrize("name", KNOBS)
def test_each_knob_is_trained_narrowed_and_searched(name):
    """Every weight gets a gradient, that of the plain loss; bfloat16, int8, beams and LoRA work with it."""
    model = made(name).train()
    ids, targets = torch.randint(64, (2, 2, 24), generator=torch.Generator().manual_seed(2)).unbind()
    loss = model(ids, targets)[1]
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    plain = F.cross_entropy(model(ids)[0].flatten(0, 1), targets.flatten())
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.allclose(gradients[key], parameter.grad, atol=1e-5), key
    with torch.autocast("cpu", torch.bfloat16):
        assert model(ids, targets)[1].item() == pytest.approx(loss.item(), rel=0.03)
    model.eval()
    with torch.no_grad():
        expected = model(ids)[0]
        for dtype, close in (("bfloat16", 0.1), ("int8", 0.15)):
            found = cast_weights(made(name), dtype)(ids)[0].float()
            assert (found - expected).norm() / expected.norm() < close
    *_, beams = beam_search(model, [1, 2, 3], 8, 3)
    assert len({tuple(found) for found, _ in beams}) == 3
    attach(model, adapter := Adapter(2, 4.0))
    fill_adapters(model, 0.1)
    folded = MiniGLM(model.config).eval()
    folded.load_state_dict(merged_state(model, adapter))
    with torch.no_grad():
        assert torch.allclose(folded(ids)[0], model(ids)[0], atol=1e-4)


@pytest.mark.parametrize("name", ["rope", "alibi", "grouped heads"])
def test_attention_is_the_same_in_parts_and_fused(name, monkeypatch):
    """In bfloat16 on a CPU a short row takes it in parts, a long one the fused kernel: nearly the same gradients."""
    ids, targets = torch.randint(64, (2, 2, 24), generator=torch.Generator().manual_seed(2)).unbind()
    found = []
    for longest in (1024, 8):
        monkeypatch.setattr("model.LONGEST_APART", longest)
        model = made(name).train()
        fused = []
        monkeypatch.setattr(F, "scaled_dot_product_attention", spied(F.scaled_dot_product_attention, fused))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, targets)[1]
        loss.backward()
        monkeypatch.undo()
        assert len(fused) == (0 if longest == 1024 else 2)  # a call a block
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (loss, gradient), (other_loss, other_gradient) = found
    assert loss == pytest.approx(other_loss, rel=0.02)
    assert torch.cosine_similarity(gradient, other_gradient, dim=0) > 0.98


def spied(function, calls):
    """The function, which puts a line into `calls` each time."""
    return lambda *words, **more: (calls.append(1), function(*words, **more))[1]


FOLDING = [
    {"embedding_norm": True},
    {"embedding_norm": True, "norm_weight": False, "norm": "rms", "qk_norm": True, "attention_scale": 0.12},
    {"attention_scale": 0.3, "n_kv_head": 2},
    {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_multiplier": 0.7, "post_norms": True},
    {"residual_multiplier": 0.5, "norm_weight": False, "tied": False},
]


@pytest.mark.parametrize("knobs", FOLDING, ids=lambda knobs: " ".join(knobs))
def test_a_folded_model_computes_the_same(knobs):
    """With none of the knobs that others have not."""
    model = made(**knobs)
    shape = families.folded_shape(model.config)
    weights = conversion.folded(model, shape)
    assert all(getattr(shape, name) == value for name, value in families.FOLDED.items())
    plain = MiniGLM(shape).eval()
    plain.load_state_dict(weights)
    ids = torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(ids)[0]
        assert torch.allclose(plain(ids)[0], expected, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "knobs, message",
    [
        ({"n_embd": 30}, "cannot be shared by 4 heads; choose --n_head"),
        ({"n_kv_head": 3}, "cannot share 3; choose --n_kv_head"),
        ({"positions": "rope", "head_dim": 7}, "none; choose another --head_dim"),
        ({"positions": "rope", "rope_share": 0.0}, "none; choose another --head_dim"),
        ({"positions": "rope", "rope_scaling": "yarn:4"}, "is not known; see train.py --help"),
        ({"positions": "rope", "rope_scaling": "llama3:8"}, "is not known; see"),
        ({"positions": "rope", "rope_scaling": "llama3:8,4,4,32"}, "is not known; see"),
        ({"positions": "rope", "rope_scaling": "linear:0"}, "is not known; see"),
        ({"positions": "rope", "rope_scaling": "linear:nan"}, "is not known; see"),
        ({"positions": "rope", "rope_scaling": ":4"}, "is not known; see"),
        ({"positions": "rope", "rope_theta": 0.5}, "cannot be; choose a --rope_theta"),
        ({"positions": "turning"}, "positions cannot be 'turning'; choose one of learned, rope"),
        ({"n_embd": "32"}, "n_embd cannot be '32'; give one like 512"),
        ({"n_layer": 1 << 40}, "n_layer cannot be"),
        ({"vocab_size": 0}, "of no size"),
        ({"bias_at": "attention,head"}, "names head; choose some of attention"),
        ({"parallel": True, "post_norms": True}, "no norms behind; choose"),
    ],
)
def test_knobs_that_do_not_go_together_are_told(knobs, message):
    """What, and what to do."""
    with pytest.raises(ValueError, match=message):
        GLMConfig(**({"n_head": 4, "n_embd": 32} | knobs))


def test_the_loss_is_the_same_in_chunks(monkeypatch):
    """Many chunks, one chunk, a filled one, with a bias: the loss and all gradients are those of plain PyTorch."""
    torch.manual_seed(1)
    inputs = [torch.randn(700, 16), torch.randn(96, 16), torch.randn(96)]
    targets = torch.randint(96, (700,))
    plain = [each.clone().requires_grad_() for each in inputs]
    expected = F.cross_entropy(F.linear(*plain)[:650], targets[:650], reduction="sum")
    expected.backward()
    for logits in (96 * 256, 96 * 512, 1 << 26):
        monkeypatch.setattr(ChunkedCrossEntropy, "LOGITS", logits)
        ours = [each.clone().requires_grad_() for each in inputs]
        loss = ChunkedCrossEntropy.apply(*ours, targets, 650)
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert all(torch.allclose(a.grad, b.grad, atol=1e-4) for a, b in zip(ours, plain))


def test_few_shapes_of_the_loss_are_ever_met(monkeypatch):
    """However many targets count, the products have one of a few shapes: every new one costs a CPU memory for good."""
    shapes, chunked = set(), ChunkedCrossEntropy.apply
    monkeypatch.setattr(ChunkedCrossEntropy, "apply", lambda x, *more: (shapes.add(x.shape), chunked(x, *more))[1])
    model, ids = made().train(), torch.zeros(64, 24, dtype=torch.long)
    for count in range(1, 64 * 24, 53):
        loss_mask = (torch.arange(64 * 24) < count).float().view(64, 24)
        model(ids, ids, loss_mask)
    assert len(shapes) == 64 * 24 / ChunkedCrossEntropy.ROWS


def test_dropout_drops_its_share_and_keeps_the_mean():
    """About this share is zero, the rest larger; the seed repeats it; nothing is dropped in evaluation."""
    x = torch.ones(1001, 333)
    for share in (0.001, 0.1, 0.5, 0.999):
        layer = Dropout(share).train()
        torch.manual_seed(3)
        y = layer(x)
        assert (y == 0).float().mean().item() == pytest.approx(share, abs=0.01)
        assert y.mean().item() == pytest.approx(1, abs=0.2 if share == 0.999 else 0.01)
        torch.manual_seed(3)
        assert layer(x).equal(y)
        assert layer.eval()(x) is x


@pytest.mark.long
@pytest.mark.parametrize("name", KNOBS)
def test_onnxruntime_computes_each_knob(project, name):
    """A prompt with padding in front, then a token from the cache: our logits, 1e-3 of their size."""
    model = made(name, vocab_size=320)
    letters = Tokenizer("bpe", {bytes([byte]): byte for byte in range(256)} | {b"ab": 256})
    checkpoint = Checkpoint(model.state_dict(), vars(model.config), {}, False, fingerprint(letters))
    save_checkpoint(project.folder / "out/knob", checkpoint, letters)
    project.run("export.py", "--out_dir=out/knob", "--to=onnx", "--save_path=made/knob.onnx")
    session = onnxruntime.InferenceSession(project.folder / "made/knob.onnx")
    names = [each.name for each in session.get_inputs()][2:]
    config = model.config
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(4))
    mask = np.ones((2, 9), np.int64)
    mask[1, :3] = 0
    past = [np.zeros((2, config.kv_heads, 0, config.head_size), np.float32)] * len(names)
    found = []
    for start, stop in ((0, 8), (8, 9)):
        feed = {"input_ids": ids[:, start:stop].numpy(), "attention_mask": mask[:, :stop], **dict(zip(names, past))}
        logits, *past = session.run(None, feed)
        found.append(logits)
    with torch.no_grad():
        for row, padding in ((0, 0), (1, 3)):
            expected = model(ids[row : row + 1, padding:])[0][0].numpy()
            ours = np.concatenate(found, axis=1)[row, padding:]
            assert np.abs(ours - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_long_context_takes_no_memory_until_it_is_used():
    """Rotary positions have no table: whatever context a file tells, the model is as large as its weights."""
    shape = GLMConfig(block_size=1 << 30, vocab_size=64, n_layer=1, n_head=1, n_embd=8, positions="rope")
    model = MiniGLM(shape).eval()
    kept = [*model.parameters(), *model.buffers(), model.rotary.frequencies]
    assert sum(each.nbytes for each in kept) < 10_000
    ids = torch.zeros(1, 4, dtype=torch.int64)
    with torch.no_grad():
        far = model.rotary.at(torch.tensor([1 << 29]), torch.float32)
        assert model(ids)[0].isfinite().all() and all(each.isfinite().all() for each in far)
