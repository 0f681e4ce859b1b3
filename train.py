"""Train MiniGLM: from nothing, on from where a run stopped, or on what a trained model is to learn next.

    python train.py config/demo_pretrain.py                # any setting below: --key=value
    python train.py config/lora.py --lora_rank=8           # only a small change of a model, kept in a file of its own
    torchrun --nproc_per_node=2 train.py config/train_config.py --gradient_accumulation_steps=2

Writes out_dir/ckpt.pt and best.pt, config.json, the tokenizer and log.jsonl, a line an event. A batch and its dropout
follow from the seed and the batch's number alone, so that a run that was killed, resumed with the same settings, ends
with the very weights of one that was not.
"""

import math
import time
from typing import Annotated, Literal

import torch
from tqdm import tqdm

from configurator import Bounds, FilePath, Natural, NotNegative, Positive, Share, configure
from data_utils import open_data
from miniglm import machine, origin
from miniglm.errors import refuse
from miniglm.objectives import ON_ROLLOUTS, objective_of
from miniglm.optimizers import Optimizers, Schedule
from miniglm.parallel import join
from miniglm.replay import tell_step
from miniglm.rewards import judge_of
from miniglm.rollouts import Drawing, Rollouts, book_of
from miniglm.run import Run, Stop
from miniglm.sources import Steps, Written

# -----------------------------------------------------------------------------
# where things are
out_dir: FilePath = "out"  # checkpoint, log and tokenizer go here
dataset = "sanguo"  # data/DATASET, as prepare.py or prepare_sft.py wrote it
# scratch, resume (out_dir's run), finetune or hf (ckpt_dir's model), auto (resume, if there is something)
init_from: Literal["scratch", "resume", "finetune", "hf", "auto"] = "scratch"
ckpt_dir: FilePath = ""  # the model to start from: another run's out_dir, or for hf a Hugging Face folder
overwrite = False  # let scratch and finetune begin where a checkpoint is; that one becomes replaced.pt
# the model; resume and finetune take the checkpoint's shape
n_layer: Positive = 6  # blocks
n_head: Positive = 8  # attention heads, a divisor of n_embd
n_embd: Positive = 512  # width
block_size: Annotated[int, Bounds(2)] = 512  # context in tokens; for a model from elsewhere, of a row of a book
dropout: Share = 0.0  # share of activations zeroed in training; 0.1 or more where the book is read many times
bias = True  # biases in linear layers and layer norms
# what kind of decoder it is: the defaults are GPT-2's, config/demo_pretrain.py has one of today's
n_kv_head: Natural = 0  # heads of keys and values, each for a group of queries; 0: n_head
head_dim: Natural = 0  # numbers of a head, 0: n_embd / n_head
n_inner: Natural = 0  # width of the MLP, 0: 4 n_embd, with a gate 8/3 n_embd
norm: Literal["layer", "rms"] = "layer"  # how the residual stream is normalised before it is read
norm_eps: NotNegative = 1e-5  # added to the variance
norm_weight = True  # norms have weights
embedding_norm = False  # a norm on the tokens' embedding
previous_token = False  # the embedding of the token before is added, at other places: copying comes early
qk_norm = False  # a norm on each head's queries and keys
post_norms = False  # norms on what attention and MLP add, too
parallel = False  # attention and MLP side by side, behind one norm
activation: Literal["gelu", "gelu_tanh", "silu", "relu2"] = "gelu_tanh"  # of the MLP; relu2 is ReLU squared
gated = False  # the activation of one product times another: with silu SwiGLU
positions: Literal["learned", "rope", "alibi"] = "learned"  # a table, turning pairs, or scores that fade
rope_theta: Annotated[float, Bounds(1)] = 10000.0  # larger for longer contexts
rope_share: Annotated[float, Bounds(0, 1)] = 1.0  # of a head's numbers that turn
rope_pairs: Literal["halves", "neighbours"] = "halves"  # which two numbers of a head turn together
rope_scaling = ""  # linear:FACTOR, or llama3:FACTOR,LOW,HIGH,CONTEXT, for more than a model was trained on
attention_scale: NotNegative = 0.0  # of queries times keys, 0: 1 / sqrt(head_dim)
zero_init = False  # what adds to the residual stream starts from zero
bias_at = "attention,output,mlp,norm"  # where there are biases, unless --bias=False
tied = True  # the head's weight is the embedding
head_bias = False  # a bias for each token's logit
embedding_multiplier: NotNegative = 1.0  # of the embedding
residual_multiplier: NotNegative = 1.0  # of what attention and MLP add
logits_multiplier: NotNegative = 1.0  # of the logits
freeze: Natural = 0  # the first blocks, and the embedding, that stay as ckpt_dir's model has them
# LoRA: only a small change of the weights is trained, ckpt_dir's own stay as they are
lora_rank: Natural = 0  # of the change; 4 to 32 are usual, 0 trains all weights
lora_alpha: NotNegative = 16.0  # the change counts alpha / rank times
lora_dropout: Share = 0.0  # share of what the change reads that is zeroed in training
lora_targets = "attention,output,mlp"  # the layers that have one: all of a block's; attention alone is the least
merge_lora = False  # checkpoints hold the whole model with the change folded in, too
quantize: Literal["none", "nf4"] = "none"  # of the blocks' weights; nf4: 4 bits each (QLoRA; needs bitsandbytes)
# what is minimised; all but likelihood learn from judgements, see docs/alignment.md
objective: Literal["likelihood", "reward", "dpo", "grpo", "ppo"] = "likelihood"
beta: NotNegative = 0.1  # how dear it is to leave ckpt_dir's model, of dpo, grpo and ppo
label_smoothing: Share = 0.0  # of dpo: the share of pairs that are taken to be the wrong way round
likelihood_weight: NotNegative = 0.0  # of dpo: how much the likelihood of the better answers counts beside
reward = (
    "right=1,denied=-0.5,loop=-1"  # of grpo and ppo: NAME=WEIGHT,…, a reward model's out_dir, or FILE.py (executed)
)
group_size: Annotated[int, Bounds(1)] = 8  # of grpo and ppo: answers drawn to each question
steps_a_draw: Positive = 1  # of grpo and ppo: steps on what is drawn at once; more are cheaper and stray further
temperature: Annotated[float, Bounds(0.01, 10)] = 1.0  # at which answers are drawn
max_new_tokens: Positive = 120  # an answer that is longer is cut off
clip: Share = 0.2  # beyond 1 ± clip times likelier than when it was drawn a token gains nothing more
value_weight: NotNegative = 0.5  # of ppo: of the critic's squared error
gamma: Annotated[float, Bounds(0, 1)] = 1.0  # of ppo: how much less a reward counts a token earlier
gae_lambda: Annotated[float, Bounds(0, 1)] = (
    0.95  # of ppo: from what the critic expects next, 0, to what came in the end, 1
)
# the batch
batch_size: Positive = 12  # rows (of grpo and ppo answers) a device reads at once; smaller where memory ends
gradient_accumulation_steps: Positive = 1  # such batches before each step, over all devices together
# the optimizer
optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the blocks' matrices, faster per token on small runs
ns_steps: Positive = 5  # Newton-Schulz steps of Muon; 3 are enough for pretraining, learning by heart wants 5
learning_rate: NotNegative = 1e-3  # the highest
max_iters: Positive = 6000  # steps in all
epochs: NotNegative = 0.0  # passes over the training data, in place of max_iters; 0 for max_iters
fit_minutes: NotNegative = 0.0  # as many of these steps as fit, which the first ones tell; 0 for all
weight_decay: NotNegative = 0.1  # on matrices only
beta1: Share = 0.9  # AdamW's memory of gradients
beta2: Share = 0.95  # and of their squares
grad_clip: NotNegative = 1.0  # the longest gradient, 0 for no limit
decay_lr = True  # warm up, then fall along a cosine to min_lr
warmup_iters: Natural = 100  # steps to reach learning_rate
lr_decay_iters: Natural = 0  # steps to reach min_lr, 0 for max_iters
min_lr: NotNegative = 1e-4  # a tenth of learning_rate is usual
# what is told and kept
eval_interval: Positive = 250  # steps between estimates of both losses, each followed by a checkpoint
eval_iters: Positive = 20  # batches an estimate takes from each split
log_interval: Positive = 10  # steps between log lines
eval_only = False  # estimate the losses once and stop
always_save_checkpoint = True  # False: only when the validation loss is the best so far
keep_last: Positive = 1  # checkpoints that stay; more than one, and each has its step in its name: ckpt-00000250.pt
max_skipped: Positive = 8  # steps in a row with a gradient that is not finite, then back, with half the rate
replay: Annotated[int, Bounds(-1)] = -1  # a step to look at: the loss of each of its rows is told, nothing written
# the machine
device = "auto"  # auto, cpu, cuda, cuda:1, mps
dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of the matrix products; weights stay float32
gradient_checkpointing = False  # compute activations twice instead of keeping them: a quarter slower, less memory
compile = False  # torch.compile: faster steps on a GPU after a minute or so of compiling; on a CPU it gains nothing
shard: Literal["no", "fsdp"] = "no"  # fsdp: each of torchrun's processes keeps a part of the weights, not all
backend: Literal["auto", "gloo", "nccl"] = "auto"  # of torchrun's processes: nccl on CUDA, gloo elsewhere
seed: Annotated[int, Bounds(0, 2**31 - 1)] = 1337  # the same seed, settings and machine give the same run
max_minutes: NotNegative = 0.0  # stop in good order after so long, 0 for never; --init_from=resume goes on
# -----------------------------------------------------------------------------

settings = configure(globals())
too_high = decay_lr and min_lr > learning_rate
refuse(too_high, f"--min_lr={min_lr} is above --learning_rate={learning_rate}", "choose it below")
refuse(
    fit_minutes > 0 and lr_decay_iters > 0,
    "--fit_minutes lets the rate fall until its own end",
    "leave --lr_decay_iters away",
)
if objective in ON_ROLLOUTS:
    shared, between = batch_size % group_size == 0, eval_interval % steps_a_draw == 0
    refuse(not shared, f"--batch_size={batch_size} cannot be shared by groups of {group_size}", "choose a multiple")
    refuse(
        not between, f"--eval_interval={eval_interval} would save amid a draw", "choose a multiple of --steps_a_draw"
    )

# the machine; a process alone is a group of one
group = join(device, backend, shard)
refuse(
    gradient_accumulation_steps % group.size != 0,
    f"--gradient_accumulation_steps={gradient_accumulation_steps} cannot be shared by {group.size} processes",
    f"choose a multiple of {group.size}",
)
refuse(replay >= 0 and group.size > 1, "--replay reads a step's batches in one process", "leave torchrun away")
torch.manual_seed(seed + group.rank)

# the data: the files tell whether these are books, conversations, pairs or prompts
data = open_data(dataset)

# the model: new, ours, an adapter on its base, or from Hugging Face; all that cannot be is refused there
start = origin.begin(settings, data, group)
if group.device == "cpu":
    machine.prepare_cpu(keep_freed=not gradient_checkpointing)
if gradient_checkpointing:
    machine.checkpoint_gradients(start.model)
model = group.place(start.model).train()
loss_of = objective_of(settings)
autocast = machine.autocast_to(start.dtype, group.device_type)
scaler = torch.amp.GradScaler(group.device_type, enabled=start.dtype == "float16")

# the optimizers, and how their rate changes
optimizers = Optimizers(model, optimizer, weight_decay, (beta1, beta2), ns_steps, start.dtype)
rows_a_step = batch_size * gradient_accumulation_steps // (group_size if objective in ON_ROLLOUTS else 1)
steps = math.ceil(epochs * data.rows_of_epoch(start.block_size) / rows_a_step) if epochs else max_iters
schedule = Schedule(learning_rate, min_lr, warmup_iters, lr_decay_iters or steps, decay_lr)

# where the batches come from: what is written, or what the model itself draws
steps_of = Steps(batch_size, gradient_accumulation_steps, start.block_size, seed, group)
reference = origin.reference_of(settings, start, autocast, group)
if objective in ON_ROLLOUTS:
    drawing = Drawing(
        group_size, steps_a_draw, temperature, max_new_tokens, objective == "ppo", beta, gamma, gae_lambda
    )
    source = Rollouts(data, steps_of, start, drawing, judge_of(reward, book_of(data)), reference, autocast)
else:
    source = Written(data, steps_of, reference)

# the run: its folder, its log, and where it stands; the place in the data follows from the step
run = Run(settings | {"max_iters": steps}, start, data, optimizers, schedule, scaler, group)
network = group.wrap(machine.compile_if_possible(model) if compile else model)


@torch.no_grad()
def estimate_loss(split):
    """The mean loss of eval_iters batches of a split, the same ones each time and in every process."""

    def loss_on(batch):
        with autocast:
            return loss_of(model, batch).item()

    with machine.evaluating(model):
        losses = [source.estimate(split, index, loss_on) for index in range(eval_iters)]
    return group.first(sum(losses) / len(losses))


def gradient_of(batches):
    """Leave the gradient of a step in the weights; (the step's loss, the gradient's length), scalar tensors."""
    weight = group.total(sum(batch.weight for batch in batches))  # each token of the step weighs the same
    step_loss = torch.zeros((), device=group.device)
    for batch in batches:
        torch.manual_seed(batch.seed)  # dropout is a function of the batch's number, too
        with group.syncing_only(batch is batches[-1], network):
            with autocast:
                loss = loss_of(network, batch) * batch.weight / weight
            scaler.scale(loss * group.size).backward()  # the processes' gradients are averaged
        step_loss += loss.detach()
    return group.total(step_loss), optimizers.unscaled_norm(scaler)


run.tell_beginning()
progress = tqdm(total=run.max_iters, initial=run.state.step, disable=not group.main, dynamic_ncols=True, unit="step")
stop = Stop(max_minutes, progress, group)

# the loop
while True:
    stopping = group.any(stop.asked) and run.state.step % source.steps_a_draw == 0
    last = run.state.step >= run.max_iters
    evaluating = replay < 0 and (run.state.step % eval_interval == 0 or last or eval_only)
    val_loss = math.inf  # not estimated
    if evaluating:
        val_loss = run.tell_losses(estimate_loss("train"), estimate_loss("val"), last)
    due = stopping or evaluating and (always_save_checkpoint or val_loss < run.state.best_val_loss)
    if due and not math.isnan(val_loss):
        run.save(val_loss)
    if stopping or last or eval_only:
        break

    began = time.perf_counter()
    batches = source.take(run.state.step)
    loss, norm = gradient_of(batches)
    if run.state.step == replay:
        print(f"step {replay}: loss {loss.item():.4f}, gradient norm {norm.item():.4f}")
        tell_step(model, batches, loss_of, autocast, data.tokenizer)
        break
    finite = math.isfinite((loss + norm).item())
    if finite:
        optimizers.step(run.learning_rate, norm, grad_clip, scaler)
        run.skipped_in_a_row = 0
    else:
        run.skip_step()
    scaler.update()
    optimizers.zero_grad()
    if run.skipped_in_a_row == max_skipped:
        run.go_back()  # to the last checkpoint, with half the rate
        progress.n = progress.initial = run.state.step
        continue

    run.state.tokens += int(group.total(torch.tensor(sum(batch.ids.numel() for batch in batches), device=group.device)))
    if finite and run.state.step % log_interval == 0:
        progress.set_postfix_str(run.tell_step(loss.item(), norm.item(), source.figures()), refresh=False)
    run.count_step(time.perf_counter() - began)
    progress.total = run.max_iters
    progress.update()

progress.close()
run.tell_end(stop, stopping, source.closing())
group.leave()
