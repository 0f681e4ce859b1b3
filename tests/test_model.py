"""The model against transformers' GPT-2, its loss against PyTorch's own, and its generator against both."""

import math

import pytest
import torch
from torch.nn import functional as F

from miniglm.decoding import Sampling, beam_search, filter_logits, generate, penalize, sample_token
from miniglm.errors import UserError
from miniglm.machine import cast_weights
from model import GLMConfig, MiniGLM


def small_model(bias=True, block_size=48, seed=0, dropout=0.0):
    """A small random model in evaluation mode, with weights large enough that its choices differ."""
    torch.manual_seed(seed)
    model = MiniGLM(GLMConfig(block_size, 128, 3, 4, 64, dropout, bias)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.dim() == 2 else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def reference(model):
    """transformers' GPT2LMHeadModel with the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    config = GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    conv = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # kept transposed there
    theirs.load_state_dict({k: v.t() if k.endswith(conv) else v for k, v in model.state_dict().items()}, strict=False)
    return theirs


@pytest.fixture(scope="module")
def pair():
    """Our model and transformers' with the same weights."""
    model = small_model()
    return model, reference(model)


def test_the_default_is_the_reports_model():
    """6 layers, 512 wide, GPT-2's vocabulary: 45M parameters."""
    with torch.device("meta"):
        assert round(MiniGLM(GLMConfig()).num_parameters() / 1e6) == 45


def test_logits_equal_transformers(pair):
    """The same weights give the same logits."""
    model, theirs = pair
    idx = torch.randint(128, (3, 48))
    with torch.no_grad():
        assert torch.allclose(model(idx)[0], theirs(idx).logits, atol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_equal_plain_cross_entropy(masked):
    """The chunked loss is the masked mean of F.cross_entropy, and so are its gradients."""
    model = small_model()
    idx, targets = torch.randint(128, (2, 20, 40)).unbind()
    loss_mask = (torch.rand(20, 40) < 0.3).float() if masked else None
    loss = model(idx, targets, loss_mask)[1]
    loss.backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    each = F.cross_entropy(model(idx)[0].flatten(0, 1), targets.flatten(), reduction="none")
    weights = torch.ones(800) if loss_mask is None else loss_mask.flatten()
    plain = (each * weights).sum() / weights.sum()
    plain.backward()
    assert torch.allclose(loss, plain, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.allclose(grads[name], parameter.grad, atol=1e-5), name


def test_a_packed_row_equals_its_samples_alone():
    """Positions and attention restart with each sample: the logits are those of each sample by itself."""
    model = small_model()
    a, b = torch.randint(128, (17,)), torch.randint(128, (25,))
    sample = torch.tensor([[0] * 17 + [1] * 25])
    with torch.no_grad():
        packed = model.lm_head(model.hidden(torch.cat([a, b])[None], sample))
        alone = torch.cat([model(a[None])[0], model(b[None])[0]], dim=1)
    assert torch.allclose(packed, alone, atol=1e-5)


def generated(model, prompts, n, **settings):
    """What each prompt is followed by, a list of lists."""
    more = {name: settings.pop(name) for name in ("end_ids", "use_cache") if name in settings}
    steps = generate(model, prompts, n, Sampling(**settings), **more)
    return [list(row) for row in zip(*(step.ids for step in steps))]


def test_cached_and_uncached_agree_beyond_the_block():
    """Greedy tokens are the same with and without the cache, also after the context is full."""
    model = small_model(block_size=24)
    prompts = [[1, 2, 3], list(range(20)), list(range(60))]
    cached = generated(model, prompts, 70, temperature=0)
    assert cached == generated(model, prompts, 70, temperature=0, use_cache=False)
    assert len({tuple(row) for row in cached}) == 3


def test_a_batch_gives_what_each_prompt_gives_alone():
    """Prompts of different length do not disturb each other."""
    model = small_model()
    prompts = [[5], [7, 8, 9, 10], list(range(30))]
    assert generated(model, prompts, 15, temperature=0) == [
        generated(model, [p], 15, temperature=0)[0] for p in prompts
    ]


@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}])
def test_greedy_equals_transformers(pair, settings):
    """Token for token what transformers' generate gives."""
    model, theirs = pair
    prompt = [3, 1, 4, 1, 5, 9]
    expected = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=30, do_sample=False, eos_token_id=None, **settings
    )
    assert generated(model, [prompt], 30, temperature=0, **settings)[0] == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize("settings", [{}, {"length_penalty": -0.5}, {"length_penalty": 2.0, "repetition_penalty": 1.3}])
def test_beam_search_equals_transformers(pair, num_beams, settings):
    """All beams, best first, and their scores, with and without an end token."""
    model, theirs = pair
    prompt = [3, 1, 4, 1, 5, 9]
    likely = generated(model, [prompt], 8, temperature=0)[0][5]
    for end_ids in ([], [likely]):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, num_beams=num_beams,
            num_return_sequences=num_beams, eos_token_id=end_ids or None, pad_token_id=127,
            output_scores=True, return_dict_in_generate=True, **settings,
        )  # fmt: skip
        *_, found = beam_search(model, prompt, 20, num_beams, end_ids, **settings)
        for row, score, (ids, ours) in zip(
            expected.sequences.tolist(), expected.sequences_scores.tolist(), found, strict=True
        ):
            assert ids == row[len(prompt) :][: len(ids)] and set(row[len(prompt) + len(ids) :]) <= {127}
            assert ours == pytest.approx(score, abs=1e-4)


def test_filters_equal_transformers():
    """Temperature, top-k, top-p and min-p keep the very ids that transformers' warpers keep."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(1)
    logits = torch.randn(16, 128) * 3
    none = torch.zeros(16, 1, dtype=torch.long)
    for settings, warpers in (
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
        ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
        (
            {"temperature": 0.6, "top_k": 20, "top_p": 0.9},
            [TemperatureLogitsWarper(0.6), TopKLogitsWarper(20), TopPLogitsWarper(0.9)],
        ),
    ):
        expected = logits
        for warper in warpers:
            expected = warper(none, expected)
        assert torch.allclose(filter_logits(logits, **settings), expected), settings


def test_sampling_follows_the_distribution():
    """Draws pass a chi-square test against the probabilities that the filters leave."""
    torch.manual_seed(2)
    logits = torch.randn(1, 32)
    rng = torch.Generator().manual_seed(3)
    draws = sample_token(logits.expand(20000, -1), Sampling(temperature=0.7, top_k=10), rng).bincount(minlength=32)
    probs = filter_logits(logits, 0.7, 10).softmax(-1)[0]
    assert draws[probs == 0].sum() == 0
    expected = 20000 * probs[probs > 0]
    chi_square = ((draws[probs > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 27.9  # the 0.999 quantile with 9 degrees of freedom


STRATEGIES = [
    {"temperature": 0.7},
    {"top_k": 9},
    {"top_p": 0.6},
    {"min_p": 0.1},
    {"temperature": 1.3, "repetition_penalty": 1.4},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.8, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("settings", STRATEGIES)
def test_samples_are_distributed_as_transformers_generate_does_it(pair, settings):
    """What generate draws passes a chi-square test against the probabilities of transformers' generate."""
    model, theirs = pair
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    result = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=1, do_sample=True, eos_token_id=None, output_scores=True,
        return_dict_in_generate=True, **{"top_k": 0, "temperature": 1.0, **settings},
    )  # fmt: skip
    probs = result.scores[0][0].softmax(-1)
    (first,) = generate(model, [prompt] * 8000, 1, Sampling(seed=11, **settings))
    draws = torch.tensor(first.ids).bincount(minlength=128)
    assert draws[probs == 0].sum() == 0
    rare = (8000 * probs < 5) & (probs > 0)  # taken together, as the test asks
    expected = torch.cat([8000 * probs[probs * 8000 >= 5], 8000 * probs[rare].sum()[None]])
    found = torch.cat([draws[probs * 8000 >= 5], draws[rare].sum()[None]])
    common = expected > 0
    chi_square = ((found - expected)[common] ** 2 / expected[common]).sum().item()
    freedom = int(common.sum()) - 1
    # The 0.9999 quantile, by Wilson and Hilferty's approximation.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3
    assert freedom >= 2 and chi_square < limit


def test_a_seed_repeats_a_run_and_another_does_not():
    """The same seed gives the same tokens, whatever torch's own random state."""
    model = small_model()
    first = generated(model, [[1, 2]], 20, seed=7)
    torch.manual_seed(99)
    assert generated(model, [[1, 2]], 20, seed=7) == first != generated(model, [[1, 2]], 20, seed=8)


def test_generation_stops_at_the_end_token():
    """A row that has ended gives None; the generator ends with the last row."""
    model = small_model()
    free = generated(model, [[1], [2]], 40, temperature=0)
    end = free[0][3]
    rows = generated(model, [[1], [2]], 40, temperature=0, end_ids=[end])
    stop = free[0].index(end)
    assert rows[0][: stop + 1] == free[0][: stop + 1] and all(token is None for token in rows[0][stop + 1 :])


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.05), ("float16", 0.002), ("int8", 0.1)])
def test_narrow_weights_give_nearly_the_same_logits(dtype, tolerance):
    """Relative to their size, logits and loss stay within what the weights' rounding explains; generation runs."""
    exact, narrow = small_model(), cast_weights(small_model(), dtype)
    idx, targets = torch.randint(128, (2, 4, 48)).unbind()
    with torch.no_grad():
        expected, found = exact(idx)[0], narrow(idx)[0].float()
        assert 0 < (found - expected).norm() / expected.norm() < tolerance
        assert narrow(idx, targets)[1].item() == pytest.approx(exact(idx, targets)[1].item(), rel=tolerance)
    prompts = [[1, 2, 3], list(range(20))]
    cached = generated(narrow, prompts, 40, temperature=0)
    assert list(map(len, cached)) == [40, 40]
    agreeing = sum(a == b for a, b in zip(cached[0], generated(exact, prompts, 40, temperature=0)[0]))
    assert agreeing >= 3, "the beginning at least is the same"


def test_int8_is_refused_where_it_cannot_run():
    """On another device than the CPU, with what to do."""
    with pytest.raises(UserError, match="choose --device=cpu"):
        cast_weights(small_model().to("meta"), "int8")


def test_penalties_leave_fresh_ids_alone():
    """Only ids that stand in the text are made less likely."""
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    assert torch.allclose(penalize(logits.clone(), [[0, 1]], 2.0), torch.tensor([[1.0, -4.0, 1.0]]))
