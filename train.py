"""Train MiniGLM: from nothing, on from where a run stopped, or on conversations from a trained model.

    python train.py config/demo_pretrain.py                # any setting below: --key=value
    python train.py config/lora.py --lora_rank=8           # only a small change of a model, kept in a file of its own
    torchrun --nproc_per_node=2 train.py config/train_config.py --gradient_accumulation_steps=2

Writes out_dir/ckpt.pt and best.pt, config.json, the tokenizer and log.jsonl, a line an event. A batch and its dropout
follow from the seed and the batch's number alone, so that a run that was killed, resumed with the same settings, ends
with the very weights of one that was not.
"""

import contextlib
import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from configurator import configure
from data_utils import (
    get_batch_pretrain,
    get_batch_sft,
    init_data_pretrain,
    init_data_sft,
    is_sft,
    row_length,
    to_device,
)
from miniglm.checkpoint import (
    CHECKPOINT,
    adapter_in,
    build_model,
    fingerprint,
    load_checkpoint,
    locate,
    open_model,
    restore_optimizer,
    save_checkpoint,
    set_aside,
)
from miniglm.errors import UserError, refuse
from miniglm.files import claim, is_plain_name, sha256, write_whole
from miniglm.hf import is_hf
from miniglm.lora import Adapter, attach, digest
from miniglm.machine import (
    checkpoint_gradients,
    compile_if_possible,
    join_processes,
    keep_freed_memory,
    peak_memory,
    pick_device,
    pick_dtype,
    share_cores,
)
from miniglm.tokenizer import Tokenizer, read_meta
from model import GLMConfig, MiniGLM

# -----------------------------------------------------------------------------
# where things are
out_dir = "out"  # checkpoint, log and tokenizer go here
dataset = "sanguo"  # data/DATASET, as prepare.py or prepare_sft.py wrote it
init_from = "scratch"  # scratch, resume (out_dir's run), finetune or hf (ckpt_dir's model), auto (resume, if there is something)
ckpt_dir = ""  # the model to start from: another run's out_dir, or for hf a Hugging Face folder of the GPT-2 family
overwrite = False  # let scratch and finetune begin where a checkpoint is; that one becomes replaced.pt
# the model; resume and finetune take the checkpoint's shape
n_layer = 6  # blocks
n_head = 8  # attention heads, a divisor of n_embd
n_embd = 512  # width
block_size = 512  # context in tokens; for a model from elsewhere, how many of its context a row of a book takes
dropout = 0.0  # share of activations zeroed in training; 0.1 or more where the book is read many times
bias = True  # biases in linear layers and layer norms
# LoRA: only a small change of the weights is trained, ckpt_dir's own stay as they are
lora_rank = 0  # of the change; 4 to 32 are usual, 0 trains all weights
lora_alpha = 16.0  # the change counts alpha / rank times
lora_dropout = 0.0  # share of what the change reads that is zeroed in training
lora_targets = "c_attn,c_proj,c_fc"  # the layers that have one: all of a block's; c_attn alone is the least
merge_lora = False  # checkpoints hold the whole model with the change folded in, too
quantize = "none"  # of the blocks' own weights: none, or nf4, 4 bits each (QLoRA; needs the package bitsandbytes)
# the batch
batch_size = 12  # rows a device reads at once; smaller where memory ends
gradient_accumulation_steps = 1  # such batches before each step, over all devices together
# the optimizer
optimizer = "adamw"  # adamw, or muon for the blocks' matrices (Jordan et al. 2024), faster per token on small runs
ns_steps = 5  # Newton-Schulz steps of Muon; 3 are enough for pretraining and cost less, learning by heart wants 5
learning_rate = 1e-3  # the highest
max_iters = 6000  # steps in all
weight_decay = 0.1  # on matrices only
beta1 = 0.9  # AdamW's memory of gradients
beta2 = 0.95  # and of their squares
grad_clip = 1.0  # the longest gradient, 0 for no limit
decay_lr = True  # warm up, then fall along a cosine to min_lr
warmup_iters = 100  # steps to reach learning_rate
lr_decay_iters = 0  # steps to reach min_lr, 0 for max_iters
min_lr = 1e-4  # a tenth of learning_rate is usual
# what is told and kept
eval_interval = 250  # steps between estimates of both losses, each followed by a checkpoint
eval_iters = 20  # batches an estimate takes from each split
log_interval = 10  # steps between log lines
eval_only = False  # estimate the losses once and stop
always_save_checkpoint = True  # False: only when the validation loss is the best so far
keep_last = 1  # checkpoints that stay; more than one, and each has its step in its name, too: ckpt-00000250.pt
max_skipped = 8  # steps in a row with a gradient that is not finite, then the last checkpoint goes on at half the rate
replay = -1  # the number of a step to look at: tells the loss of each of its rows and the gradient, writes nothing
# the machine
device = "auto"  # auto, cpu, cuda, cuda:1, mps
dtype = "auto"  # auto, float32, bfloat16 or float16 for the matrix products; weights stay float32
gradient_checkpointing = False  # compute activations twice instead of keeping them: a quarter slower, much less memory
compile = False  # torch.compile: faster steps on a GPU after a minute or so of compiling; on a CPU it gains nothing
backend = "auto"  # of torchrun's processes: nccl on CUDA, gloo elsewhere
seed = 1337  # the same seed, settings and machine give the same run
max_minutes = 0.0  # stop in good order after so long, 0 for never; --init_from=resume goes on
# -----------------------------------------------------------------------------

AT_LEAST_ONE = ["n_layer", "n_head", "n_embd", "batch_size", "gradient_accumulation_steps", "ns_steps", "max_iters"]
AT_LEAST_ONE += ["eval_interval", "eval_iters", "log_interval", "keep_last", "max_skipped"]
NOT_NEGATIVE = ["learning_rate", "min_lr", "weight_decay", "grad_clip", "warmup_iters", "lr_decay_iters", "max_minutes"]
NOT_NEGATIVE += ["lora_rank", "lora_alpha"]
limits = {"block_size": (2, None), "seed": (0, 2**31 - 1), "replay": (-1, None)}
limits |= dict.fromkeys(AT_LEAST_ONE, (1, None)) | dict.fromkeys(NOT_NEGATIVE, (0, None))
limits |= dict.fromkeys(("dropout", "lora_dropout", "beta1", "beta2"), (0.0, 0.999999))
settings = configure(
    globals(),
    limits=limits,
    choices={
        "init_from": ("scratch", "resume", "finetune", "hf", "auto"),
        "quantize": ("none", "nf4"),
        "optimizer": ("adamw", "muon"),
        "dtype": ("auto", "float32", "bfloat16", "float16"),
        "backend": ("auto", "gloo", "nccl"),
    },
)
lr_decay_iters = lr_decay_iters or max_iters
refuse(
    min_lr > learning_rate and decay_lr,
    f"--min_lr={min_lr} is above --learning_rate={learning_rate}",
    "choose it below",
)

# devices and processes
rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
device = pick_device(device)
if world_size > 1:
    join_processes(("nccl" if device == "cuda" else "gloo") if backend == "auto" else backend)
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
main_process = rank == 0
device_type = device.split(":")[0]
refuse(
    gradient_accumulation_steps % world_size != 0,
    f"--gradient_accumulation_steps={gradient_accumulation_steps} cannot be shared by {world_size} processes",
    f"choose a multiple of {world_size}",
)
dtype = pick_dtype(dtype, device)
autocast = contextlib.nullcontext() if dtype == "float32" else torch.autocast(device_type, dtype=getattr(torch, dtype))
torch.manual_seed(seed + rank)
if device == "cpu":
    if not gradient_checkpointing:  # what is kept is faster, but more
        keep_freed_memory()
    share_cores(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

# data: the files tell whether these are books or conversations
data_dir = Path("data", dataset)
refuse(not is_plain_name(dataset), f"--dataset={dataset} is no name", "give the name of a folder in data/")
refuse(not data_dir.is_dir(), f"no data set {data_dir}", "run python data/prepare.py, or check --dataset")
chat, searches = is_sft(dataset), bool(read_meta(data_dir).get("searches"))
tokenizer = Tokenizer.load(data_dir)
if chat:
    init_data_sft(dataset)
    get_batch = partial(get_batch_sft, with_sample=True)
else:
    init_data_pretrain(dataset)
    get_batch = get_batch_pretrain

# the model: new, or from a checkpoint
watching = eval_only or replay >= 0  # nothing is trained for good, nothing written
resumable = Path(out_dir, CHECKPOINT).exists()
run = os.environ.get("TORCHELASTIC_RUN_ID", "")  # torchrun's; it starts a run again after a process has died
again = resumable and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
if init_from == "auto" or again and load_checkpoint(out_dir, mmap=True)["settings"].get("run") == run:
    init_from = "resume" if resumable else "finetune" if ckpt_dir else "scratch"
refuse(
    init_from != "resume" and not overwrite and resumable,
    f"{out_dir} holds a checkpoint already",
    "go on with --init_from=resume, choose another --out_dir, or replace it with --overwrite=True",
)
starts = init_from in ("finetune", "hf")
refuse(starts and not ckpt_dir, f"{init_from} needs a model to start from", "give its directory as --ckpt_dir=DIR")
refuse(
    init_from == "hf" and not is_hf(ckpt_dir),
    f"{ckpt_dir} is no Hugging Face folder",
    "give one with config.json, model.safetensors and the tokenizer's files as --ckpt_dir",
)
refuse(
    starts and locate(ckpt_dir)[0].resolve() == Path(out_dir).resolve(),
    "the model to start from is in --out_dir",
    "choose another --out_dir",
)
refuse(
    lora_rank and init_from == "scratch",
    "LoRA changes a model that is there",
    "name it with --init_from=finetune --ckpt_dir=DIR",
)
refuse(
    not lora_rank and (quantize != "none" or merge_lora),
    "--quantize and --merge_lora go with LoRA",
    "add --lora_rank=8, or leave them away",
)
refuse(quantize != "none" and device_type == "mps", "--quantize=nf4 is for CUDA and the CPU", "choose --device=cpu")
refuse(not watching and out_dir.endswith(".pt"), f"--out_dir={out_dir} is a checkpoint", "give its directory")
refuse(replay >= max_iters, f"--replay={replay} is none of the {max_iters} steps", "choose one below --max_iters")
refuse(replay >= 0 and world_size != 1, "--replay reads a step's batches in one process", "leave torchrun away")
if main_process and not watching and (resumable or init_from != "resume"):
    claim(out_dir)
if init_from == "scratch":
    refuse(
        n_embd % n_head != 0, f"--n_embd={n_embd} cannot be shared by {n_head} heads", "choose --n_head as a divisor"
    )
    vocab_size = math.ceil(tokenizer.vocab_size / 64) * 64
    model = MiniGLM(GLMConfig(block_size, vocab_size, n_layer, n_head, n_embd, dropout, bias))
    checkpoint = {}
else:
    checkpoint = load_checkpoint(out_dir) if init_from == "resume" else {}
    refuse(
        checkpoint and bool(checkpoint.get("lora")) != bool(lora_rank),
        f"{out_dir} was trained {'without' if lora_rank else 'with'} --lora_rank",
        "resume with the settings of the run, which are in its config.json",
    )
    ckpt_dir = settings["ckpt_dir"] = ckpt_dir or str(checkpoint.get("settings", {}).get("ckpt_dir", ""))
    base = open_model(ckpt_dir)[0] if lora_rank or not checkpoint else checkpoint
    refuse(
        lora_rank and "base" in base,
        f"{ckpt_dir} is an adapter itself",
        "train that one with --merge_lora=True first, or start from its own base",
    )
    refuse(
        base["tokenizer"] != fingerprint(tokenizer),
        f"the checkpoint was trained with another tokenizer than data/{dataset}",
        f"prepare the data with the checkpoint's own, --tokenizer_from={locate(ckpt_dir or out_dir)[0]}",
    )
    model = build_model(base, dropout=dropout)
    # A row may be shorter than the model's context: one of conversations, or of a book for a model from elsewhere.
    context = model.config.block_size
    rows = checkpoint["settings"].get("block_size") if checkpoint else context if base["settings"] else block_size
    rows = row_length() if chat else rows
    block_size = min(rows, context) if isinstance(rows, int) and rows > 1 else context
parameters, adapter = model.num_parameters(), None
if lora_rank:
    adapter = Adapter(lora_rank, lora_alpha, lora_dropout, tuple(lora_targets.split(",")), digest(base["model"]))
    same = not checkpoint or adapter_in(checkpoint, out_dir).base == adapter.base
    refuse(not same, f"{out_dir} was trained from another model than {ckpt_dir}", "give that one as --ckpt_dir")
    attach(model, adapter, quantize)
base = None  # its memory
if gradient_checkpointing:
    checkpoint_gradients(model)
trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
settings |= {name: getattr(model.config, name) for name in ("n_layer", "n_head", "n_embd", "bias")}
settings |= {
    "block_size": block_size,
    "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
    "device": device_type,
    "dtype": dtype,
    "processes": world_size,
    "threads": torch.get_num_threads(),
    "torch": str(torch.__version__),
    "data": sha256(data_dir / "meta.json")[:12],
    "run": run,
}
model.to(device)
model.train()

# the optimizers: Muon takes the blocks' matrices, AdamW all else
muon_parameters = [p for n, p in trained.items() if p.dim() == 2 and ".h." in n] if optimizer == "muon" else []
taken = set(map(id, muon_parameters))
rest = [p for p in trained.values() if id(p) not in taken]
optimizers = [
    torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(beta1, beta2),
        fused=device_type in ("cuda", "cpu"),
    )
]
if muon_parameters:
    # match_rms_adamw: updates of AdamW's size, so that one learning rate serves both (arXiv:2502.16982)
    how = {"adjust_lr_fn": "match_rms_adamw", "ns_steps": ns_steps}
    optimizers.append(torch.optim.Muon(muon_parameters, lr=learning_rate, weight_decay=weight_decay, **how))
scaler = torch.amp.GradScaler(device_type, enabled=dtype == "float16")

# where the run stands; the random states and the place in the data follow from it
iter_num, tokens, seconds_before, best_val_loss = 0, 0, 0.0, math.inf
rate = 1.0  # what part of the scheduled learning rate is used
skipped = []  # steps whose gradient was not finite
log_path = Path(out_dir, "log.jsonl")


def restore(checkpoint):
    """Stand where a checkpoint of this run stands: weights, optimizers, counts; gives the seconds it took until there.

    Settings stay those of now.
    """
    global iter_num, tokens, best_val_loss, rate, skipped
    refuse(
        len(checkpoint["optimizers"]) != len(optimizers),
        f"{out_dir} was not trained with --optimizer={optimizer}",
        "resume with the settings of the run, which are in its config.json",
    )
    try:
        if adapter:
            adapter_in(checkpoint, out_dir).into(model)
        else:
            model.load_state_dict(checkpoint["model"])
        for each, state in zip(optimizers, checkpoint["optimizers"], strict=True):
            restore_optimizer(each, state)
        if checkpoint["scaler"] and scaler.is_enabled():
            scaler.load_state_dict(checkpoint["scaler"])
        iter_num, tokens = checkpoint["iter_num"], int(checkpoint["tokens"])
        best_val_loss = float(checkpoint["best_val_loss"])
        rate, skipped = min(1.0, float(checkpoint.get("rate", 1.0))), list(checkpoint.get("skipped", ()))
        return float(checkpoint["seconds"])
    except (MemoryError, torch.OutOfMemoryError, UserError):
        raise
    except Exception as error:  # a damaged state fails in many ways
        raise UserError(f"the checkpoint in {out_dir} is none that a run can go on from", "train again") from error


def rewind_log():
    """Keep the log's lines on steps before this one: the later ones will be written again."""
    kept = []
    for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if log_path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # a killed run's last line is half
            if json.loads(line)["iter"] < iter_num:
                kept.append(line + "\n")
    with write_whole(log_path) as file:
        file.writelines(kept)


if init_from == "resume":
    seconds_before = restore(checkpoint)
    before = checkpoint["settings"]
    of_this_call = {"out_dir", "init_from", "ckpt_dir", "overwrite", "max_minutes", "eval_only", "replay", "run"}
    of_this_call |= {"keep_last", "log_interval", "merge_lora", "gradient_checkpointing"}
    changed = [
        f"{key} {value} (was {before[key]})"
        for key, value in settings.items()
        if key not in of_this_call and before.get(key, value) != value
    ]
    if changed and main_process:
        print(f"not what it was: {', '.join(changed)}; the losses will not be those of a run left alone")
    if rate < 1 and main_process:
        print(f"with {rate:g} of the learning rate, since the numbers went wrong before step {iter_num}")
    iter_num = min(iter_num, replay) if replay >= 0 else iter_num
checkpoint = None


def numbered_batch(split, index, device=device):
    """What the model's forward takes, of batch number `index` of this run."""
    return get_batch(split, batch_size, block_size, device, index, seed)


for split in ("train", "val"):
    numbered_batch(split, 0)  # data that do not fit the model are told before anything is written
if main_process and not watching:
    if resumable and init_from != "resume":
        set_aside(out_dir)
    rewind_log()

network = compile_if_possible(model) if compile else model
if world_size > 1:
    # No buffer changes; those of 4-bit weights would be sent at each step.
    where = {"device_ids": [device] if device_type == "cuda" else None}
    network = DistributedDataParallel(network, **where, broadcast_buffers=False)


def batches_of(step):
    """[(number, batch on the CPU)] that this process reads in a step."""
    first = step * gradient_accumulation_steps + rank
    indices = range(first, first + gradient_accumulation_steps, world_size)
    return [(index, numbered_batch("train", index, "cpu")) for index in indices]


def learning_rate_at(step):
    """Linear warm-up, then a cosine from learning_rate down to min_lr, which stays."""
    if not decay_lr:
        return rate * learning_rate
    if step < warmup_iters:
        return rate * learning_rate * (step + 1) / (warmup_iters + 1)
    progress = min(1.0, (step - warmup_iters) / max(1, lr_decay_iters - warmup_iters))
    return rate * (min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (learning_rate - min_lr))


@torch.no_grad()
def estimate_loss(split):
    """The mean loss of eval_iters batches of a split, the same ones each time."""
    model.eval()
    with autocast:
        losses = [model(*numbered_batch(split, index))[1].item() for index in range(eval_iters)]
    model.train()
    return sum(losses) / len(losses)


def evaluate():
    """Estimate both losses, print them and put them into the log; gives that of the validation split, maybe no number."""
    train_loss, val_loss = estimate_loss("train"), estimate_loss("val")
    tqdm.write(f"step {iter_num}: train loss {train_loss:.4f}, validation loss {val_loss:.4f}")
    if not math.isfinite(train_loss + val_loss):
        return math.nan
    if not watching:
        write_log("train_eval", train_loss)
        write_log("val", val_loss)
    return val_loss


def write_log(split, loss, **more):
    """Append one event to log.jsonl."""
    event = {"iter": iter_num, "split": split, "loss": loss, "lr": learning_rate_at(iter_num), "tokens": tokens}
    event |= {"seconds": round(seconds_before + time.monotonic() - started, 3), **more}
    with open(log_path, "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def save(best):
    """Write the checkpoint with all that resuming needs, as best.pt, too, where it is the best; gives what to tell of it."""
    begun = time.monotonic()
    state = {
        "optimizers": [each.state_dict() for each in optimizers],
        "scaler": scaler.state_dict(),
        "iter_num": iter_num,
        "tokens": tokens,
        "seconds": seconds_before + time.monotonic() - started,
        "best_val_loss": best_val_loss,
        "rate": rate,
        "skipped": skipped,
        "searches": searches,
    }
    save_checkpoint(out_dir, model, tokenizer, settings, chat, state, best, keep_last, adapter, merge_lora)
    saving.append(time.monotonic() - begun)
    return f"saved at step {iter_num}"


def go_back():
    """Return to the last checkpoint with half the rate. Raises UserError where none is, or where that did not help."""
    global rate, upcoming
    lower = rate / 2
    refuse(
        lower < 1 / 8 or not Path(out_dir, CHECKPOINT).exists() or watching,
        f"the gradient was not finite for {max_skipped} steps in a row, up to step {iter_num}"
        + (f", even at {rate:g} of the rate" if rate < 1 else ""),
        f"lower --learning_rate, or look at a step's batch with --init_from=resume --replay={skipped[-1]}",
    )
    restore(load_checkpoint(out_dir))
    rate, upcoming = lower, loader.submit(batches_of, iter_num)
    if main_process:
        rewind_log()
        tqdm.write(f"gone back to the checkpoint of step {iter_num}, with {rate:g} of the learning rate")
    progress.initial = progress.n = iter_num


@torch.no_grad()
def tell_rows(batches):
    """Print the loss of each row of a step's batches, with its beginning, and where the gradient is not finite."""
    model.eval()
    for index, inputs in batches:
        for row, ids in enumerate(inputs[0].tolist()):
            with autocast:
                loss = model(*(None if each is None else each[row : row + 1] for each in inputs))[1].item()
            counted, text = int(inputs[2][row].sum()), tokenizer.decode(ids)[:40]
            print(f"batch {index} row {row}: loss {loss:.4f} over {counted} tokens: {text!r}")
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    print(f"gradient not finite in: {', '.join(broken) or 'none'}")


def asked_to_stop():
    """Whether any process was asked to stop; all must know, or they would wait for each other for ever."""
    if world_size == 1:
        return bool(stopping)
    asked = torch.tensor(float(bool(stopping)), device=device)
    dist.all_reduce(asked, op=dist.ReduceOp.MAX)
    return bool(asked)


def on_signal(number, frame):
    """Have the loop end in good order; a second Ctrl-C ends the run at once."""
    if number == signal.SIGINT and "SIGINT" in stopping:
        raise KeyboardInterrupt
    stopping.append(signal.Signals(number).name)
    progress.disable = True  # what it writes to may have had the same Ctrl-C
    if main_process:
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


stopping, saving = [], []  # why the run is to stop before max_iters; how long each checkpoint took
in_a_row = 0  # steps skipped just now
kept = f"saved at step {iter_num}" if init_from == "resume" else "nothing saved yet"
if main_process:
    print(f"{parameters:,} parameters on {device} in {dtype}; {init_from} at step {iter_num} of {max_iters}")
    if adapter:
        print(f"LoRA trains {settings['trained_parameters']:,} beside them; they stay as they are in {ckpt_dir}")
    if device == "cpu" and parameters > 20_000_000:
        print("this model is meant for a GPU; config/demo_pretrain.py suits a CPU")
progress = tqdm(total=max_iters, initial=iter_num, disable=not main_process, dynamic_ncols=True, unit="step")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, on_signal)
started, tokens_before = time.monotonic(), tokens
loader = ThreadPoolExecutor(1)  # makes the next step's batches ready while this one runs
upcoming = loader.submit(batches_of, iter_num)

# the loop
while True:
    stop, last, val_loss = asked_to_stop(), iter_num >= max_iters, math.inf
    due = bool(stop)
    if main_process and replay < 0 and (iter_num % eval_interval == 0 or last or eval_only):
        val_loss = evaluate()
        finite = math.isfinite(val_loss)
        refuse(
            not finite and last, f"the loss is no number at step {iter_num}", "train again with a lower --learning_rate"
        )
        due = finite and (always_save_checkpoint or val_loss < best_val_loss or stop)
    if main_process and due and iter_num and not watching and (last or not in_a_row):  # in trouble the good one stays
        best, best_val_loss = val_loss < best_val_loss, min(val_loss, best_val_loss)
        kept = save(best)
    if stop or last or eval_only:
        break

    lr = learning_rate_at(iter_num)
    for each in optimizers:
        for group in each.param_groups:
            group["lr"] = lr
    batches, upcoming = upcoming.result(), loader.submit(batches_of, iter_num + 1)
    batches = [(index, to_device(device, *inputs)) for index, inputs in batches]
    learned = sum(inputs[2].sum() for _, inputs in batches)  # each token of the step weighs the same
    if world_size > 1:
        dist.all_reduce(learned)
    step_loss = torch.zeros((), device=device)
    for index, inputs in batches:
        torch.manual_seed((seed << 32) + index)  # dropout is a function of the batch's number, too
        syncs = world_size == 1 or index == batches[-1][0]
        with contextlib.nullcontext() if syncs else network.no_sync():
            with autocast:
                loss = network(*inputs)[1] * inputs[2].sum() / learned
            scaler.scale(loss * world_size).backward()  # DDP takes the mean of the processes' gradients
        step_loss += loss.detach()
    if world_size > 1:
        dist.all_reduce(step_loss)
    for each in optimizers:
        scaler.unscale_(each)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.get_total_norm(gradients)
    if iter_num == replay:
        if main_process:
            print(f"step {iter_num}: loss {step_loss.item():.4f}, gradient norm {grad_norm.item():.4f}")
            tell_rows(batches)
        break
    whole = math.isfinite((grad_norm + step_loss).item())
    if whole:
        in_a_row = 0
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), grad_clip or math.inf, grad_norm)
        for each in optimizers:
            scaler.step(each)
    else:
        in_a_row += 1
        skipped.append(iter_num)
        if main_process:
            tqdm.write(
                f"step {iter_num} skipped, its gradient is not finite; --init_from=resume --replay={iter_num} shows its batch"
            )
    scaler.update()
    for each in optimizers:
        each.zero_grad(set_to_none=True)
    if in_a_row == max_skipped:
        in_a_row = 0
        go_back()
        continue

    tokens += batch_size * block_size * gradient_accumulation_steps
    if main_process and whole and iter_num % log_interval == 0 and not watching:
        write_log(
            "train",
            step_loss.item(),
            grad_norm=grad_norm.item(),
            memory=peak_memory(device),
            **({"skipped": len(skipped)} if skipped else {}),
        )
        speed = (tokens - tokens_before) / (time.monotonic() - started)
        progress.set_postfix_str(f"loss {step_loss.item():.3f}, {speed:,.0f} tokens/s", refresh=False)
    iter_num += 1
    progress.update()
    if max_minutes and time.monotonic() - started > 60 * max_minutes:
        stopping.append(f"{max_minutes:g} minutes have passed")

progress.close()
if main_process and skipped and not watching:
    print(f"{len(skipped)} steps were skipped: {', '.join(map(str, skipped[:20]))}{', …' * (len(skipped) > 20)}")
if main_process and saving:
    share = sum(saving) / (time.monotonic() - started)
    print(f"{len(saving)} checkpoints took {sum(saving):.1f} s, {share:.1%} of the time")
if main_process and stop and not last and not watching:
    why = stopping[0] if stopping else "another process was asked to"
    print(f"stopped at step {iter_num} ({why}), {kept}; go on with --init_from=resume and the same settings")
if world_size > 1:
    dist.destroy_process_group()
