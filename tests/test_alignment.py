"""Learning from judgements, run as a reader runs it: pairs, a reward model, DPO, GRPO, PPO; trl is the judge of DPO."""

import contextlib
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data_utils import open_data
from miniglm import origin, rewards
from miniglm.batch import Batch
from miniglm.chat import complete, prompt_ids
from miniglm.checkpoint import load_checkpoint
from miniglm.decoding import Sampling
from miniglm.objectives import dpo, grpo, log_probs_of
from miniglm.parallel import Group
from miniglm.plots import draw_answers, read_log
from miniglm.rollouts import Drawing, Rollouts
from miniglm.sources import Steps
from tools import SWAPPED, TALK, TORCHRUN, events, same, state

QUESTION = TALK[0][0]
TRAIN = [
    "train.py", "--init_from=finetune", "--ckpt_dir=out/talk", "--batch_size=4", "--eval_iters=1", "--min_lr=1e-4",
    "--warmup_iters=2", "--dtype=float32", "--log_interval=1", "--block_size=128", "--weight_decay=0",
]  # fmt: skip
PAIRS = [*TRAIN, "--dataset=pairs", "--learning_rate=1e-3", "--max_iters=80", "--eval_interval=80"]
PROMPTS = [*TRAIN, "--dataset=prompts", "--learning_rate=3e-3", "--group_size=4", "--temperature=2", "--beta=0.01"]


def user(text):
    """A message of the user's."""
    return {"role": "user", "content": text}


def said(text):
    """A message of the assistant's."""
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def judged(project, chat):
    """The project with data/pairs, in which the answer to another question is the better one, and data/prompts."""
    pairs = [{"Question": q, "chosen": better, "rejected": worse} for (q, better), (_, worse) in zip(SWAPPED, TALK)]
    project.write("pairs.jsonl", "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs * 4))
    words = ["--tokenizer_from=out/talk", "--block_size=127"]
    project.run("data/prepare_pairs.py", "pairs.jsonl", "--dataset=pairs", "--val_file=pairs.jsonl", *words)
    prompts = [{"Question": q, "Answer": a, "Key": a} for q, a in TALK]
    project.write("prompts.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in prompts))
    project.run("data/prepare_pairs.py", "prompts.jsonl", "--dataset=prompts", "--val_file=prompts.jsonl", *words)
    return project


def answer(out_dir):
    """What a model says to the first question, greedy."""
    loaded = origin.load(out_dir)
    return complete(loaded, [prompt_ids(loaded, QUESTION)], 40, Sampling(temperature=0))[0].text


def test_pairs_of_every_public_form_are_read(project, chat):
    """The same question and answers in the forms of DPO's public sets give the same rows; no pairs are counted."""
    q, good, bad = "张飞字什么？", "张飞字翼德。", "我不知道。"
    forms = [
        {"Question": q, "chosen": good, "rejected": bad},
        {"prompt": q, "chosen": good, "rejected": bad},
        {"instruction": q, "input": "", "chosen": good, "rejected": bad},
        {"prompt": [user(q)], "chosen": [said(good)], "rejected": [said(bad)]},
        {"chosen": [user(q), said(good)], "rejected": [user(q), said(bad)]},
        {"prompt": q, "chosen": [user(q), said(good)], "rejected": [user(q), said(bad)], "score_chosen": 9},
        {
            "conversations": [{"from": "human", "value": q}],
            "chosen": {"from": "gpt", "value": good},
            "rejected": {"from": "gpt", "value": bad},
        },
    ]
    wrong = [
        ({"prompt": q, "chosen": good, "rejected": good}, "has the same answer twice"),
        ({"prompt": q, "chosen": good, "rejected": " "}, 'has an empty "rejected"'),
        ({"prompt": q, "chosen": good}, 'has no pair of answers ("chosen" and "rejected")'),
        ({"prompt": q, "chosen": good, "rejected": bad * 40}, "is longer than the block, both answers together"),
        ({"chosen": [user(q), said(good)], "rejected": [user("?"), said(bad)]}, "has answers to two questions"),
    ]
    records = [*forms, *(record for record, _ in wrong)]
    project.write("forms.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records))
    words = ["--dataset=forms", "--tokenizer_from=out/talk", "--block_size=64", "--val_fraction=0"]
    out = project.run("data/prepare_pairs.py", "forms.jsonl", *words).stdout
    for _, reason in wrong:
        assert f"left out 1, each {reason}" in out
    names = ("", "_mask", "_sample")
    kinds = (np.uint16, np.uint8, np.uint16)
    files = {
        split: [
            np.fromfile(project.folder / f"data/forms/{split}{name}.bin", kind).reshape(-1, 65)
            for name, kind in zip(names, kinds)
        ]
        for split in ("train", "val")
    }
    tokenizer, found = origin.load(chat).tokenizer, []
    for rows in files.values():
        for ids, mask, sample in zip(*rows):
            for number in range(0, sample.max(), 2):
                for each in (number, number + 1):
                    learned = ids[(sample == each) & (mask == 1)].tolist()
                    assert learned[-1] == tokenizer.end_id
                    found.append(tokenizer.decode(learned[:-1]))
            assert mask[-1] == 0  # a row's last id is only ever predicted
    assert found == [good, bad] * len(forms)


def test_a_reward_model_tells_better_answers(judged):
    """All held-out pairs, by its scores; export and talking leave the value head away."""
    judged.run(*PAIRS, "--objective=reward", "--out_dir=out/reward")
    judged.run("evaluations.py", "--out_dir=out/reward", "--save_path=reward.json")
    found = json.loads((judged.folder / "reward.json").read_text("utf-8"))
    assert found["n"] == 16 and found["pair_accuracy"] == 1 and found["loss"] < 0.2
    assert 0 <= found["calibration_error"] < 0.3
    judge = rewards.RewardModel(judged.folder / "out/reward")
    better, worse = judge.scores([[user(QUESTION), said(pairs[0][1])] for pairs in (SWAPPED, TALK)])
    assert better > worse + 1
    assert load_checkpoint(judged.folder / "out/reward").shape["value_head"]
    assert origin.load(judged.folder / "out/reward").model.value_head is None
    judged.run("export.py", "--out_dir=out/reward", "--to=hf", "--save_path=made/reward")
    assert "no reward model" in judged.fails(*PROMPTS, "--objective=grpo", "--reward=out/talk", "--out_dir=out/none")


@pytest.mark.parametrize("more", [[], ["--lora_rank=4", "--learning_rate=1e-2"]])
def test_dpo_makes_the_better_answer_the_models(judged, more, monkeypatch):
    """It begins from the reference itself, a loss of log 2, and ends with the better answer; also as an adapter."""
    monkeypatch.chdir(judged.folder)
    out = f"out/dpo-{len(more)}"
    assert answer("out/talk") == TALK[0][1]
    judged.run(*PAIRS, "--objective=dpo", "--likelihood_weight=0", f"--out_dir={out}", *more)
    first, last = (each["loss"] for each in events(judged.folder / out, "val"))
    assert abs(first - math.log(2)) < 1e-5 and last < 0.1
    judged.run("evaluations.py", f"--out_dir={out}", "--dataset=pairs", "--save_path=dpo.json")
    assert json.loads((judged.folder / "dpo.json").read_text("utf-8"))["pair_accuracy"] == 1
    judged.run(*PAIRS, "--objective=dpo", "--likelihood_weight=1", f"--out_dir={out}-near", *more)
    assert answer(f"{out}-near") == SWAPPED[0][1]


def test_trl_computes_dpos_loss_so(judged, exported, tmp_path, monkeypatch):
    """trl's DPOTrainer on the exported models, the trained one and its reference: the same loss of the same pair."""
    import datasets
    import transformers
    import trl

    monkeypatch.chdir(judged.folder)
    judged.run(*PAIRS, "--objective=dpo", "--out_dir=out/dpo-trl", "--max_iters=3", "--overwrite=True")
    judged.run("export.py", "--out_dir=out/dpo-trl", "--to=hf", f"--save_path={tmp_path / 'policy'}")
    opened = transformers.AutoModelForCausalLM.from_pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ours, reference = (origin.load(place).model for place in ("out/dpo-trl", "out/talk"))
    for number, (question, better) in enumerate(SWAPPED):
        record = {"prompt": f"问：{question}\n答：", "chosen": better, "rejected": TALK[number][1]}
        config = trl.DPOConfig(
            str(tmp_path / "trl"), beta=0.3, per_device_train_batch_size=1, report_to=[], use_cpu=True, bf16=False,
            gradient_checkpointing=False, disable_dropout=True,
        )  # fmt: skip
        trainer = trl.DPOTrainer(
            opened(tmp_path / "policy"), opened(exported), config,
            train_dataset=datasets.Dataset.from_list([record]), processing_class=tokenizer,
        )  # fmt: skip
        inputs = next(iter(trainer.get_train_dataloader()))
        theirs = trainer.compute_loss(trainer.model, inputs).item()
        prompt, ids, mask, sample = tokenizer(record["prompt"])["input_ids"], [], [], []
        for place, name in enumerate(("chosen", "rejected")):
            answered = [*tokenizer(record[name])["input_ids"], tokenizer.eos_token_id]
            ids += prompt + answered
            mask += [0] * len(prompt) + [1] * len(answered)
            sample += [place] * (len(prompt) + len(answered))
        ids, mask, sample = (torch.tensor([each]) for each in (ids, mask, sample))
        batch = Batch(ids[:, :-1], ids[:, 1:], mask[:, 1:].float(), sample[:, :-1], paired=True)
        with torch.no_grad():
            batch = Batch(**vars(batch) | {"reference": log_probs_of(reference, batch)})
            assert abs(dpo(ours, batch, 0.3).item() - theirs) < 1e-4 and abs(theirs - math.log(2)) > 1e-3


OWN_REWARD = 'def reward(question, answer):\n    return float("诸葛" in answer)\n'


@pytest.mark.parametrize("objective", ["grpo", "ppo"])
def test_answers_that_a_reward_likes_become_likelier(judged, objective):
    """A reader's own reward, on which nothing else has bearing: it rises, and the log tells how far the model went."""
    judged.write("my_reward.py", OWN_REWARD)
    words = ["--batch_size=32", "--max_iters=10", "--eval_interval=10", "--steps_a_draw=2", "--reward=my_reward.py"]
    words += ["--max_new_tokens=24"]
    out = judged.run(*PROMPTS, *words, f"--objective={objective}", f"--out_dir=out/{objective}").stdout
    log = events(judged.folder / f"out/{objective}")
    assert sum(each["reward"] for each in log[-4:]) / 4 > sum(each["reward"] for each in log[:2]) / 2 + 0.2
    assert log[0]["divergence"] == 0 and log[-1]["divergence"] != 0 and log[-1]["answer_length"] > 0
    flat = sum(each["flat_groups"] for each in log) / len(log)
    assert 0 < flat < 1
    if objective == "grpo":  # 8 questions a step, drawn every second step
        assert f"of 80 questions {flat:.0%} taught nothing" in out
    first, last = (each["loss"] for each in events(judged.folder / f"out/{objective}", "val"))
    assert last < first  # minus the reward
    panels = draw_answers({objective: read_log(judged.folder / f"out/{objective}")}, str).axes
    drawn = {axes.get_ylabel(): axes.lines[0].get_ydata() for axes in panels}
    for name in ("reward", "divergence", "answer_length"):
        assert list(drawn[name]) == [each[name] for each in log]


def test_an_adapter_holds_a_value_head(judged, tmp_path):
    """With LoRA a reward model tells the pairs apart, folded in or not, and resumes exactly; the file has no head."""
    words = [*PAIRS, "--objective=reward", "--lora_rank=8", "--learning_rate=1e-2", "--init_from=auto"]
    words += ["--lr_decay_iters=80", "--eval_interval=40"]
    judged.run(*words, "--max_iters=80", "--out_dir=out/whole-head")
    judged.run(*words, "--max_iters=80", "--out_dir=out/merged-head", "--merge_lora=True")
    for steps in (40, 80):
        judged.run(*words, f"--max_iters={steps}", "--out_dir=out/parts-head")
    one, other = (load_checkpoint(judged.folder / f"out/{out}-head") for out in ("whole", "parts"))
    assert one.adapter.weights["value_head.weight"].any() and not one.weights
    assert same(one.adapter.weights, other.adapter.weights) and same(one.optimizers, other.optimizers)
    for out in ("whole", "merged"):
        judged.run("evaluations.py", f"--out_dir=out/{out}-head", "--save_path=head.json")
        assert json.loads((judged.folder / "head.json").read_text("utf-8"))["pair_accuracy"] == 1
    adapter = load_file(judged.folder / "out/whole-head/adapter_model.safetensors")
    assert adapter and not any("value_head" in name for name in adapter)
    words = ["export.py", "--out_dir=out/talk", "--lora=out/whole-head/ckpt.pt", "--merge=False", "--to=gguf"]
    judged.run(*words, f"--save_path={tmp_path / 'head.gguf'}")


def test_what_is_learnt_are_the_tokens_that_were_drawn(judged, monkeypatch):
    """A text can be told in many tokens: a batch has those that the model drew, and nothing else counts."""
    monkeypatch.chdir(judged.folder)
    loaded, data = origin.load("out/talk"), open_data("prompts")
    steps, drawing = Steps(4, 1, 128, 1, Group(0, 1, "cpu")), Drawing(4, 1, 2.0, 24, False, 0.0, 1.0, 1.0)
    start = SimpleNamespace(model=loaded.model, family="")
    source = Rollouts(data, steps, start, drawing, rewards.judge_of("right=1", None), None, contextlib.nullcontext())
    answers = source.answer([data.records["train"][0]] * 4, seed=1)
    (batch,) = source.take(0)
    said = loaded.tokenizer.encode("张飞字翼德。")
    other = [token for character in "张飞字翼德。" for token in loaded.tokenizer.encode(character)]
    assert said != other
    twice = [answers[0]._replace(said=[[*ids, loaded.tokenizer.end_id]]) for ids in (said, other)]
    row = source.packed(twice, torch.tensor([1.0, -1.0]), 0)
    for number, (ids, sign) in enumerate(((said, 1), (other, -1))):
        learnt = (row.sample == number) & (row.loss_mask > 0)
        assert row.targets[learnt].tolist() == [*ids, loaded.tokenizer.end_id]
        assert (row.advantages[learnt] == sign).all()
    assert batch.before is not None and ((batch.before < 0) == (batch.loss_mask > 0)).all()


def test_trl_computes_grpos_loss_so(judged, exported, tmp_path, monkeypatch):
    """trl's GRPOTrainer on the exported model: the same loss of the same two answers, clipped and with a reference."""
    import datasets
    import transformers
    import trl

    monkeypatch.chdir(judged.folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    config = trl.GRPOConfig(
        str(tmp_path / "trl"), beta=0.3, epsilon=0.2, loss_type="bnpo", num_generations=2, temperature=0.7,
        per_device_train_batch_size=2, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        use_bias_correction_kl=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(exported), lambda completions, **_: [0.0] * len(completions),
        config, train_dataset=datasets.Dataset.from_list([{"prompt": QUESTION}]), processing_class=tokenizer,
    )  # fmt: skip
    trainer.model.eval()
    prompt = tokenizer(f"问：{QUESTION}\n答：")["input_ids"]
    answers = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in (TALK[0][1], "我不知道。")]
    width = max(map(len, answers))
    said = torch.tensor([each + [0] * (width - len(each)) for each in answers])
    mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in answers])
    ids = torch.cat([torch.tensor([prompt, prompt]), said], 1)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.cat([torch.zeros(2, len(prompt) - 1), mask], 1), temperature=0.7)
    network, advantages = origin.load("out/talk").model, torch.tensor([1.5, -0.5])
    torch.manual_seed(0)
    with torch.no_grad():
        now = log_probs_of(network, batch)
        before, reference = (now + 0.3 * torch.randn_like(now) * batch.loss_mask for _ in range(2))
        ours = grpo(
            network,
            replace(batch, before=before, reference=reference, advantages=advantages[:, None].expand_as(now)),
            0.3,
        )
        of_said = slice(len(prompt) - 1, None)
        theirs = trainer._compute_loss(trainer.model, {
            "prompt_ids": torch.tensor([prompt, prompt]), "prompt_mask": torch.ones(2, len(prompt), dtype=torch.int64),
            "completion_ids": said, "completion_mask": mask, "advantages": advantages,
            "old_per_token_logps": before[:, of_said], "ref_per_token_logps": reference[:, of_said],
        })  # fmt: skip
    assert abs(ours.item() - theirs.item()) < 1e-4 and abs(theirs.item()) > 1e-2


@pytest.mark.parametrize("name", ["dpo", "grpo", "ppo"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(judged, name):
    """Eight steps at once, and four and four: the same weights and optimizers to the bit."""
    words = [*(PAIRS if name == "dpo" else PROMPTS), f"--objective={name}", "--eval_interval=4", "--init_from=auto"]
    words += ["--steps_a_draw=2", "--lr_decay_iters=8", "--dropout=0.1", "--max_new_tokens=24"]
    for out, parts in (("whole", (8,)), ("parts", (4, 8))):
        for steps in parts:
            judged.run(*words, f"--max_iters={steps}", f"--out_dir=out/{out}-{name}")
    one, other = (state(judged.folder / f"out/{out}-{name}") for out in ("whole", "parts"))
    assert same(one["model"], other["model"]) and same(one["optimizers"], other["optimizers"])


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_two_processes_learn_as_one(judged, name):
    """Four batches a step, shared by two processes or not: the same losses."""
    words = [*(PROMPTS if name == "grpo" else PAIRS), f"--objective={name}", "--max_iters=3", "--eval_interval=3"]
    words += ["--gradient_accumulation_steps=4", "--batch_size=4", "--max_new_tokens=24", "--learning_rate=1e-3"]
    judged.run(*words, f"--out_dir=out/alone-{name}")
    judged.run(*TORCHRUN, *words, f"--out_dir=out/shared-{name}")
    alone, shared = ([each["loss"] for each in events(judged.folder / f"out/{o}-{name}")] for o in ("alone", "shared"))
    if name == "grpo":  # each draws its own answers
        assert len(alone) == len(shared) == 3
    else:
        assert len(alone) == 3 and all(abs(one - other) < 1e-4 for one, other in zip(alone, shared, strict=True))


def test_the_reference_must_be_there(judged):
    """A run that is resumed where the model it keeps near is gone: one line."""
    shutil.copytree(judged.folder / "out/talk", judged.folder / "out/passing")
    words = [*PAIRS, "--objective=dpo", "--ckpt_dir=out/passing", "--out_dir=out/kept", "--eval_interval=2"]
    judged.run(*words, "--max_iters=2")
    shutil.rmtree(judged.folder / "out/passing")
    assert "no model out/passing to keep near" in judged.fails(*words, "--init_from=resume", "--max_iters=4")


@pytest.mark.parametrize(
    "words, message",
    [
        ([*PAIRS, "--objective=likelihood"], "nothing that --objective=likelihood learns from"),
        ([*PAIRS, "--objective=grpo", "--group_size=4"], "nothing that --objective=grpo learns from"),
        ([*PROMPTS, "--objective=dpo"], "nothing that --objective=dpo learns from"),
        ([*PAIRS, "--dataset=talk", "--objective=reward"], "nothing that --objective=reward learns from"),
        ([*PAIRS, "--objective=dpo", "--init_from=scratch"], "changes a model that is there"),
        ([*PROMPTS, "--objective=grpo", "--batch_size=6"], "--batch_size=6 cannot be shared by groups of 4"),
        ([*PROMPTS, "--objective=ppo", "--steps_a_draw=3", "--eval_interval=4"], "would save amid a draw"),
        ([*PROMPTS, "--objective=grpo", "--reward=rightly=1"], "--reward knows no 'rightly'"),
        ([*PROMPTS, "--objective=grpo", "--reward=right=much"], "no number"),
        ([*PROMPTS, "--objective=grpo", "--reward=nowhere.py"], "nowhere.py cannot be used"),
        ([*PROMPTS, "--objective=grpo", "--reward=raises.py"], "failed (ZeroDivisionError"),
        ([*PROMPTS, "--objective=grpo", "--reward=infinite.py"], "is inf for"),
        (["evaluations.py", "--out_dir=out/talk", "--dataset=prompts"], "holds questions alone"),
    ],
)
def test_mistakes_are_told(judged, words, message):
    """In one line each, and nothing is written."""
    judged.write("raises.py", "def reward(question, answer):\n    return 1 / 0\n")
    judged.write("infinite.py", 'def reward(question, answer):\n    return float("inf")\n')
    more = [] if words[0] == "evaluations.py" else ["--out_dir=out/mistake"]
    assert message in judged.fails(*words, *more)
    assert not (judged.folder / "out/mistake/ckpt.pt").exists()
