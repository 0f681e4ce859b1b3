"""How fast and how large: ours beside its peers, measured in turns in one run.

    python bench.py train                          # the report's 45M model, batch 16 x 256
    python bench.py train --n_layer=4 --n_head=4 --n_embd=256 --vocab_size=4096
    python bench.py finetune --batch_size=12 --block_size=512    # all weights, LoRA and QLoRA of rank 8
    python bench.py generate                       # one prompt of 16 tokens, 512 new ones
    python bench.py generate --model=models/smollm2 --new_tokens=256   # others' weights instead of random ones
    python bench.py open --model=models/smollm2    # a folder of others', from the disk to the first token
    python bench.py prepare                        # text to token ids
    python bench.py page                           # the chat page: how soon an answer begins, for 1 and 16 visitors
    python bench.py serve                          # clients of OpenAI's protocol, 1 to 64 at once, beside llama.cpp's
    python bench.py speedrun                       # the two tracks of docs/leaderboard.md, and a line for it

Prints a table and, last, one JSON line. `nanogpt` is the way of the best-known script: float32, full logits, the
whole context again for each new token, unfused AdamW. Each contestant has a process of its own, so that its peak
memory is its own; they take turns, so that a noisy machine treats all alike; the median turn counts. llama.cpp is
compared with ours in like precision; nanogpt and transformers run in float32, as they do on a CPU.
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch.nn import functional as F

from configurator import Bounds, FilePath, Positive, configure
from miniglm import origin
from miniglm.checkpoint import Checkpoint, build_model, save_checkpoint
from miniglm.decoding import Sampling, generate
from miniglm.errors import UserError, refuse
from miniglm.files import write_whole
from miniglm.lora import Adapter, attach
from miniglm.machine import (
    cast_weights,
    checkpoint_gradients,
    keep_freed_memory,
    peak_memory,
    pick_dtype,
    product_seconds,
    return_freed_memory,
)
from miniglm.origin import open_model
from miniglm.tokenizer import Tokenizer
from miniglm.vocabulary import fingerprint
from model import GLMConfig, MiniGLM

# -----------------------------------------------------------------------------
what = ["train"]  # train, finetune, generate, open, prepare, page, serve or speedrun, given without --
model: FilePath = (
    ""  # a folder of others' to open, generate with, serve or fine-tune, instead of a shape with random weights
)
n_layer: Positive = 6  # the model's shape; the defaults are the report's
n_head: Positive = 8  # attention heads
n_embd: Positive = 512  # width
vocab_size: Annotated[int, Bounds(512)] = 50304  # GPT-2's, rounded up
block_size: Annotated[int, Bounds(2)] = 256  # tokens of a row in training; generation takes 1,024
batch_size: Positive = 16  # rows of a training step
dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of our matrix products
new_tokens: Annotated[int, Bounds(2, 1000)] = 512  # tokens generated in a turn, of 1,024 positions
megabytes: Positive = 64  # of text tokenised in a turn
out_dir: FilePath = "out/demo-chat"  # the model of the page
visitors: Positive = 16  # who ask the page at once
clients = "1,4,16,64"  # who ask a server at once
turns: Positive = 5  # how often each contestant is measured
changed = "measured again"  # what a record of the speedrun has changed
# what the speedrun holds out of the book: the last tenth, for a record, or to make choices the one before it
tenth: Literal["last", "second"] = "last"
# -----------------------------------------------------------------------------

CONTESTANTS = {
    "train": ("ours", "nanogpt", "transformers"),
    "finetune": (
        "ours", "ours-lora", "ours-qlora", "ours-checkpointed", "ours-lora-checkpointed", "ours-qlora-checkpointed",
    ),
    "generate": (
        "ours", "ours-bfloat16", "ours-float16", "ours-int8", "ours-batch-16", "ours-int8-batch-16",
        "nanogpt", "transformers", "llama.cpp-f16", "llama.cpp-q8_0",
    ),
    "open": ("ours", "transformers"),
    "prepare": ("ours", "tiktoken"),
}  # fmt: skip
LIKE = {"llama.cpp-f16": "ours-float16", "llama.cpp-q8_0": "ours-int8"}  # which of ours a peer is compared with
WARM_UPS = 3  # turns before the first that counts: memory is faulted in, kernels are chosen
BOOK = Path("data/sanguo/input.txt")
LEADERBOARD = Path("docs/leaderboard.md")
TRACKS = {"sprint": "config/speedrun_sprint.py", "ten": "config/speedrun_ten.py"}
PPMD = 6.49  # bits a character of the last tenth, see miniglm/metrics.py
PROMPT = list(range(1, 17))


def of_transformers(s, positions):
    """transformers' model: that in the folder, else a GPT-2 of the shape with random weights."""
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    if s["model"]:
        return AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=s["vocab_size"], n_positions=positions,
            n_embd=s["n_embd"], n_layer=s["n_layer"], n_head=s["n_head"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            bos_token_id=0, eos_token_id=None, pad_token_id=0,
        )
    )  # fmt: skip


def miniglm(s, positions, quantize="none"):
    """Our model: that in the folder, else one of the shape with random weights."""
    if s["model"]:
        return build_model(open_model(s["model"])[0], quantize=quantize)
    return MiniGLM(GLMConfig(positions, s["vocab_size"], s["n_layer"], s["n_head"], s["n_embd"]))


def train_turn(name, s):
    """A function that takes one training step and gives (tokens, seconds)."""
    torch.manual_seed(0)
    rows = torch.randint(min(s["vocab_size"], 32000), (s["batch_size"], s["block_size"] + 1))
    x, y = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    ours, quantize = name.startswith("ours"), "nf4" if "qlora" in name else "none"
    if quantize != "none":
        return_freed_memory()
    model = of_transformers(s, s["block_size"]) if name == "transformers" else miniglm(s, s["block_size"], quantize)
    model.train()
    if "lora" in name:
        attach(model, Adapter(rank=8, alpha=16.0), quantize)
    if "checkpointed" in name:
        checkpoint_gradients(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=ours, foreach=False)
    narrow = ours and s["dtype"] == "bfloat16"
    if ours and "checkpointed" not in name:  # as train.py does
        keep_freed_memory()

    def turn():
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            if ours:
                loss = model(x, y)[1]
            else:
                logits = model(x).logits if name == "transformers" else model(x)[0]
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return x.numel(), time.perf_counter() - started

    return turn


def generate_turn(name, s):
    """A function that generates greedily and gives (tokens, seconds)."""
    torch.manual_seed(0)
    n = s["new_tokens"]
    if name.startswith("llama.cpp"):
        return llama_turn(name.removeprefix("llama.cpp-"), s, n)
    prompts = [PROMPT] * (16 if name.endswith("batch-16") else 1)
    model = (of_transformers(s, 1024) if name == "transformers" else miniglm(s, 1024)).eval()
    model = cast_weights(model, next((d for d in ("bfloat16", "float16", "int8") if f"-{d}" in name), "float32"))

    def turn():
        started = time.perf_counter()
        if name == "transformers":
            with torch.inference_mode():
                model.generate(torch.tensor(prompts), max_new_tokens=n, min_new_tokens=n, do_sample=False)
        else:
            for _ in generate(model, prompts, n, Sampling(temperature=0), use_cache=name != "nanogpt"):
                pass
        return n * len(prompts), time.perf_counter() - started

    return turn


def llama_turn(kind, s, n):
    """A function that has llama.cpp generate, on the file that export.py writes, and gives (tokens, seconds)."""
    import xllamacpp

    params = xllamacpp.CommonParams()  # ty: ignore[missing-attribute], it comes without types
    params.model.path = f"{s['scratch']}/{kind}.gguf"
    params.n_ctx, params.n_parallel, params.verbosity = 1024, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)  # ty: ignore[missing-attribute]
    request = {"prompt": PROMPT, "max_tokens": n, "temperature": 0, "ignore_eos": True}

    def turn():
        started = time.perf_counter()
        tokens = server.handle_completions(request)["usage"]["completion_tokens"]
        return tokens, time.perf_counter() - started

    return turn


def export_model(s):
    """Write a model of the shape as llama.cpp's files, for llama_turn."""
    # One merge of two bytes stands for the tokenizer: the prompt is given as ids.
    letters = Tokenizer("bpe", {bytes([byte]): byte for byte in range(256)} | {b"ab": 256})
    if not s["model"]:
        save_random(s, s["scratch"], letters)
    for kind in ("f16", "q8_0"):
        words = [
            f"--out_dir={s['model'] or s['scratch']}",
            f"--save_path={s['scratch']}/{kind}.gguf",
            f"--dtype={kind}",
        ]
        subprocess.run([sys.executable, "export.py", *words], check=True, stdout=subprocess.DEVNULL)


def save_random(s, folder, tokenizer):
    """Write a model of the shape with random weights, as if it had been trained."""
    model = miniglm(s, 1024)
    checkpoint = Checkpoint(model.state_dict(), vars(model.config), {}, False, fingerprint(tokenizer))
    save_checkpoint(folder, checkpoint, tokenizer)


def open_turn(name, s):
    """A function that opens the folder, tokenizer included, and computes one token; gives (parameters, seconds)."""
    if name == "transformers":
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401, no import is timed

    def turn():
        started = time.perf_counter()
        if name == "transformers":
            AutoTokenizer.from_pretrained(s["model"])
            model = AutoModelForCausalLM.from_pretrained(s["model"], dtype="auto")
        else:
            model = origin.load(s["model"]).model
        with torch.inference_mode():
            model(torch.tensor([PROMPT]))
        return sum(parameter.numel() for parameter in model.parameters()), time.perf_counter() - started

    return turn


def prepare_turn(name, s):
    """A function that tokenises a text with GPT-2's tokens and gives (tokens, seconds)."""
    text = BOOK.read_text(encoding="utf-8")
    copies = max(1, round(s["megabytes"] * 2**20 / len(text.encode("utf-8"))))
    if name == "tiktoken":
        encode = Tokenizer.gpt2()._encoding.encode_ordinary_batch
        parts = [text] * copies

        def turn():
            started = time.perf_counter()
            tokens = sum(map(len, encode(parts, num_threads=os.cpu_count() or 1)))
            return tokens, time.perf_counter() - started
    else:
        folder = Path(s["scratch"])
        with open(folder / "input.txt", "w", encoding="utf-8") as file:
            file.writelines([text] * copies)

        def turn():
            started = time.perf_counter()
            subprocess.run([sys.executable, "data/prepare.py", folder.name], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            return sum((folder / f"{split}.bin").stat().st_size // 2 for split in ("train", "val")), seconds

    return turn


def contestant(name, settings, pipe):
    """The process of one contestant: warm-ups, then a turn whenever asked; last its peak memory. Tells what fails."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    kinds = {"train": train_turn, "finetune": train_turn, "generate": generate_turn, "prepare": prepare_turn}
    kinds["open"] = open_turn
    try:
        turn = kinds[settings["what"]](name, settings)
        for _ in range(WARM_UPS if kinds[settings["what"]] is train_turn else 1):
            turn()
        pipe.send("ready")
        while pipe.recv():
            pipe.send(turn())
        pipe.send(peak_memory(of_children=(settings["what"], name) == ("prepare", "ours")))
    except Exception as error:  # a missing package, no memory, a shape that the peer cannot have
        pipe.send(error)


def training_roofline(s):
    """Tokens a second if a step were nothing but its matrix products, each in the fastest dtype and layout."""
    rows, C, V = s["batch_size"] * s["block_size"], s["n_embd"], s["vocab_size"]
    seconds = 0.0
    for count, inner, outer in (
        (s["n_layer"], C, 3 * C),
        (s["n_layer"], C, C),
        (2 * s["n_layer"], C, 4 * C),
        (1, C, V),
    ):
        for a, b, c in ((rows, inner, outer), (rows, outer, inner), (inner, rows, outer)):  # forward, dx, dw
            seconds += count * min(product_seconds(kind, a, b, c) for kind in ("float32", "bfloat16"))
    return rows / seconds


def generation_roofline(s):
    """Tokens a second if a token cost nothing but reading the float32 matrices once, at the speed measured here."""
    weights, best = torch.zeros(sum(p.numel() for p in miniglm(s, 1).parameters())), float("inf")
    for _ in range(20):
        started = time.perf_counter()
        weights.sum()
        best = min(best, time.perf_counter() - started)
    return 1 / best


def machine():
    """What was measured on."""
    products = {kind: 2 * 1024 * 512 * 1024 / product_seconds(kind) / 1e9 for kind in ("float32", "bfloat16")}
    return {
        "cpu": platform.processor() or platform.machine(),
        "gflops": {kind: round(rate) for kind, rate in products.items()},  # of bare matrix products
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(torch.cpu.get_capabilities().get("amx_bf16")),
        "torch": torch.__version__,
    }


async def visit(client, url, endpoint, data, session):
    """Ask the page over its own protocol, in a session of it; seconds until the answer begins."""
    started = time.perf_counter()
    order = {"data": data, "fn_index": endpoint, "session_hash": session}
    (await client.post(f"{url}/gradio_api/queue/join", json=order)).raise_for_status()
    begun = None
    async with client.stream("GET", f"{url}/gradio_api/queue/data?session_hash={session}") as events:
        async for line in events.aiter_lines():
            event = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
            if event["msg"] == "process_generating" and begun is None:
                begun = time.perf_counter() - started
            if event["msg"] == "process_completed":
                break
    refuse(not begun or not event.get("success"), "the page did not answer", "see what it has printed above")
    return begun


async def visits(url, number, times):
    """Seconds until the answer begins, of `number` visitors at once who have the page open, `times` times over."""
    import httpx

    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=2 * number)) as client:
        config = (await client.get(f"{url}/config")).json()
        chat = next(each for each in config["dependencies"] if each["api_name"] == "chat")
        data = ["张飞字什么？"]
        sessions = [uuid.uuid4().hex for _ in range(number)]
        for session in sessions:  # the page opens it
            await visit(client, url, chat["id"], data, session)
        waits = []
        for _ in range(times):
            waits += await asyncio.gather(*[visit(client, url, chat["id"], data, session) for session in sessions])
        return waits


def measure_page(settings):
    """How long visitors wait for the beginning of an answer, alone and together; printed, and as JSON."""
    server, url = serve_page(settings["out_dir"])
    try:
        alone = asyncio.run(visits(url, 1, settings["turns"]))
        together = asyncio.run(visits(url, settings["visitors"], settings["turns"]))
    finally:
        server.kill()
    result = {
        name: {"median_seconds": statistics.median(waits), "longest_seconds": max(waits)}
        for name, waits in (("alone", alone), ("together", together))
    }
    for name, each in result.items():
        print(
            f"{name:12}{each['median_seconds']:8.3f} s until the answer begins, at most {each['longest_seconds']:.3f} s"
        )
    ratio = result["together"]["median_seconds"] / result["alone"]["median_seconds"]
    print(json.dumps({"bench": "page", **result, "ratio": ratio, "machine": machine(), "settings": settings}))


async def ask(client, url, request):
    """Stream a completion over OpenAI's protocol: (its tokens, seconds until the first text of it)."""
    started, begun, tokens = time.perf_counter(), None, 0
    async with client.stream("POST", f"{url}/v1/completions", json=request) as events:
        async for line in events.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            refuse("choices" not in chunk, f"the server says {line[6:200]}", "see what it has printed above")
            if begun is None and chunk["choices"] and chunk["choices"][0]["text"]:
                begun = time.perf_counter() - started
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    refuse(begun is None or not tokens, "the server did not answer", "see what it has printed above")
    return tokens, begun


async def asking(url, name, prompts, new_tokens):
    """(tokens a second of clients who ask at once, a prompt each, the seconds until each one's first text)."""
    import httpx

    about = {"model": name, "max_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
    about |= {"stream": True, "stream_options": {"include_usage": True}}
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=len(prompts))) as client:
        await asyncio.gather(*[client.get(f"{url}/v1/models") for _ in prompts])  # they are connected
        started = time.perf_counter()
        answers = await asyncio.gather(*[ask(client, url, about | {"prompt": prompt}) for prompt in prompts])
        return sum(tokens for tokens, _ in answers) / (time.perf_counter() - started), [each for _, each in answers]


def free_port():
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve_page(out_dir, *words):
    """Start the page on a model: (its process, its address)."""
    port = free_port()
    words = [f"--out_dir={out_dir}", f"--port={port}", *words]
    server = subprocess.Popen([sys.executable, "-u", "sample_gradio.py", *words], stdout=subprocess.PIPE)
    address = server.stdout.readline() if server.stdout else b""  # as soon as it answers
    refuse(not address, "the page does not start", "see the message above")
    return server, f"http://127.0.0.1:{port}"


def serve_llama_cpp(path, rows, tokens, threads, pipe):
    """Let llama.cpp's server answer over HTTP, so many at once and so many tokens of each; it tells its address."""
    import xllamacpp

    params = xllamacpp.CommonParams()  # ty: ignore[missing-attribute], it comes without types
    params.model.path, params.port, params.verbosity = path, free_port(), 0
    params.n_parallel, params.n_ctx, params.kv_unified = rows, rows * tokens, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)  # ty: ignore[missing-attribute]
    pipe.send(server.listening_address)
    pipe.recv()


def measure_serving(settings):
    """Tokens a second and the wait for the first, of several clients, of ours and of llama.cpp; printed, as JSON."""
    kind, numbers = {"float32": "f32", "bfloat16": "bf16"}[settings["dtype"]], [int(n) for n in clients.split(",")]
    folder = settings["model"] or f"{settings['scratch']}/model"
    if not settings["model"]:
        save_random(settings, folder, Tokenizer.gpt2())
    path = f"{settings['scratch']}/{kind}.gguf"
    python("export.py", f"--out_dir={folder}", f"--save_path={path}", f"--dtype={kind}")
    page, url = serve_page(folder, f"--dtype={settings['dtype']}")
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    about = (path, max(numbers), settings["new_tokens"] + 64, torch.get_num_threads(), theirs)
    peer = spawn.Process(target=serve_llama_cpp, args=about, daemon=True)
    peer.start()
    figures = {name: {number: ([], []) for number in numbers} for name in ("ours", "llama.cpp")}
    men = itertools.count(100)  # no prompt begins as one before it: llama.cpp's server keeps what it has read
    try:
        urls = {"ours": url, "llama.cpp": received("llama.cpp", pipe)}
        for turn, number in itertools.product(range(settings["turns"] + 1), numbers):
            prompts = [f"{next(men)} men rode to the east, and one of them said to the others" for _ in range(number)]
            for name in figures:
                speed, waits = asyncio.run(asking(urls[name], folder, prompts, settings["new_tokens"]))
                if turn:  # the first warms up
                    figures[name][number][0].append(speed)
                    figures[name][number][1].extend(waits)
    finally:
        page.kill()
        peer.kill()
    results = {
        name: {
            number: {"tokens_per_second": statistics.median(speeds), "first_token": statistics.median(waits)}
            for number, (speeds, waits) in of_name.items()
        }
        for name, of_name in figures.items()
    }
    print(f"{'clients':10}{'tokens/s':>12}{'first token':>14}{'llama.cpp':>12}{'first token':>14}{'ours ÷ it':>12}")
    for number in numbers:
        ours, its = (results[name][number] for name in figures)
        share = ours["tokens_per_second"] / its["tokens_per_second"]
        print(
            f"{number:<10}{ours['tokens_per_second']:12,.0f}{ours['first_token']:12.3f} s"
            f"{its['tokens_per_second']:12,.0f}{its['first_token']:12.3f} s{share:12.2f}"
        )
    peers = {"llama.cpp": results["llama.cpp"]}
    told = {"bench": "serve", "clients": results["ours"], "peers": peers}
    print(json.dumps(told | {"machine": machine(), "settings": settings}))


def speedrun(settings):
    """Run the recipe's two tracks, print them, and append a record's line to the leaderboard."""
    refuse(
        settings["tenth"] == "last" and not settings["changed"],
        "a record has no name",
        "say what is new: --changed=WHAT",
    )
    dataset = speedrun_data(settings["tenth"])
    bits, seconds, logs = {}, {}, {}
    for track, config in TRACKS.items():
        folder = Path("out", f"speedrun-{track}")
        words = [config, f"--dataset={dataset}", f"--out_dir={folder}", "--init_from=scratch", "--overwrite=True"]
        python("train.py", *words)
        python("evaluations.py", f"--out_dir={folder}", f"--dataset={dataset}", f"--save_path={folder}/metrics.json")
        bits[track] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["bits_per_char"]
        logs[track] = (folder / "log.jsonl").read_text(encoding="utf-8")
        seconds[track] = json.loads(logs[track].splitlines()[-1])["step_seconds"]
    reached = round(seconds["sprint"], 1) if bits["sprint"] <= PPMD else None
    about = machine()
    if settings["tenth"] == "last":
        record(settings["changed"], reached, bits, logs, about)
    result = {"seconds_to_ppmd": reached, "bits_after_ten_minutes": round(bits["ten"], 4), "machine": about}
    print(f"sprint: {bits['sprint']:.3f} bits in {seconds['sprint']:.0f} s; ten minutes: {bits['ten']:.3f} bits")
    print(json.dumps(result))


def speedrun_data(tenth):
    """The name of the data set that the speedrun reads, made where it is not there."""
    if not Path("data/sanguo_bpe").is_dir():
        python("data/fetch_data.py", "sanguo")
        python("data/prepare.py", "sanguo", "--tokenizer=bpe")
    if tenth == "second" and not Path("data/sanguo_second").is_dir():
        book = BOOK.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(dir="data", prefix="bench-") as scratch:
            (Path(scratch) / "input.txt").write_text(book[: len(book) * 9 // 10], encoding="utf-8")
            words = ["--dataset=sanguo_second", "--tokenizer_from=data/sanguo_bpe", f"--val_fraction={1 / 9}"]
            python("data/prepare.py", Path(scratch).name, *words)
    return "sanguo_bpe" if tenth == "last" else "sanguo_second"


def python(*words):
    """Run a script. Raises UserError where it fails."""
    failed = subprocess.run([sys.executable, *words]).returncode
    refuse(failed, f"{words[0]} has failed", "see its message above")


def record(changed, reached, bits, logs, about):
    """Append a line to docs/leaderboard.md, and put the two logs beside it."""
    day, number = time.strftime("%Y-%m-%d"), 1 + sum(1 for _ in LEADERBOARD.with_suffix("").glob("*-ten.jsonl"))
    for track, log in logs.items():
        with write_whole(LEADERBOARD.with_suffix("") / f"{number:02d}-{track}.jsonl") as file:
            file.write(log)
    seconds = "–" if reached is None else f"{reached:.0f}"
    rates = f"{about['gflops']['float32']} / {about['gflops']['bfloat16']}"
    line = f"| {day} | {changed} | {seconds} | {bits['sprint']:.3f} | {bits['ten']:.3f} | {rates} |"
    log = f"[{number:02d}](leaderboard/{number:02d}-ten.jsonl)"
    before = LEADERBOARD.read_text(encoding="utf-8")
    with write_whole(LEADERBOARD) as file:
        file.write(f"{before.rstrip()}\n{line} {log} |\n")


def received(name, pipe):
    """What a contestant sends. Raises UserError where that is its failure, or where it has died."""
    try:
        message = pipe.recv()
    except EOFError:
        message = EOFError("its process has ended; memory may be short")
    if isinstance(message, Exception):
        failure = f"{type(message).__name__}: {message}"
        raise UserError(
            f"{name} could not be measured ({failure})", "install requirements-test.txt, or choose another shape"
        )
    return message


def measure(settings):
    """{contestant: {"tokens_per_second", "peak_memory_bytes"}}, each in a process of its own, in turns."""
    spawn = multiprocessing.get_context("spawn")
    pipes, speeds, results = {}, {}, {}
    for name in CONTESTANTS[settings["what"]]:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=contestant, args=(name, settings, theirs), daemon=True).start()
        theirs.close()
        received(name, pipes[name])
    for _ in range(settings["turns"]):
        for name, pipe in pipes.items():
            pipe.send(True)
            tokens, seconds = received(name, pipe)
            speeds.setdefault(name, []).append(tokens / seconds)
    for name, pipe in pipes.items():
        pipe.send(False)
        results[name] = {
            "tokens_per_second": statistics.median(speeds[name]),
            "peak_memory_bytes": received(name, pipe),
        }
    return results


def ratio(results, name, quantity):
    """Ours in like precision over contestant `name`."""
    return results[LIKE.get(name, "ours")][quantity] / results[name][quantity]


def print_table(results, limit):
    """A line a contestant. limit: tokens a second that the machine can reach at most, None where that is not known."""
    print(f"{what[0]:20}{'parameters/s' if what[0] == 'open' else 'tokens/s':>12}{'ours ÷ it':>12}{'peak memory':>16}")
    for name, result in results.items():
        memory = f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB" if result["peak_memory_bytes"] else "?"
        speed = result["tokens_per_second"]
        print(f"{name:20}{speed:12,.0f}{ratio(results, name, 'tokens_per_second'):12.2f}{memory:>16}")
    if limit:
        print(f"{'roofline':20}{limit:12,.0f}{results['ours']['tokens_per_second'] / limit:12.2f}")


def report(results, limit):
    """The figures as the JSON line has them: ours, its variants, the peers, and ours over each peer."""
    ours, peers = results["ours"], {name: each for name, each in results.items() if not name.startswith("ours")}
    return {
        "bench": what[0],
        "ours": ours,
        "variants": {name: each for name, each in results.items() if name.startswith("ours-")},
        "peers": peers,
        "ratios": {name: ratio(results, name, "tokens_per_second") for name in peers},
        "memory_ratios": {
            name: ratio(results, name, "peak_memory_bytes") for name, peer in peers.items() if peer["peak_memory_bytes"]
        },
        "roofline": {"limit": limit, "share": ours["tokens_per_second"] / limit} if limit else None,
    }


def main():
    """Measure and print."""
    settings = configure(globals(), positional="what")
    kinds = (*CONTESTANTS, "page", "serve", "speedrun")
    refuse(len(what) != 1 or what[0] not in kinds, "no such benchmark", f"write one of {', '.join(kinds)}")
    refuse(n_embd % n_head != 0, f"--n_embd={n_embd} cannot be shared by {n_head} heads", "choose a divisor")
    refuse(what[0] == "prepare" and not BOOK.is_file(), f"no book {BOOK}", "run python data/fetch_data.py")
    few = what[0] == "serve" and not model and vocab_size < Tokenizer.gpt2().vocab_size
    refuse(few, f"--vocab_size={vocab_size} is less than GPT-2's, which is served", "leave it away")
    refuse(what[0] == "open" and not model, "no folder to open is named", "give one as --model=DIR")
    settings |= {"what": what[0], "dtype": pick_dtype(dtype, "cpu")}
    if what[0] in ("page", "speedrun"):
        return {"page": measure_page, "speedrun": speedrun}[what[0]](settings)
    with tempfile.TemporaryDirectory(dir="data", prefix="bench-") as scratch:
        if what[0] == "serve":
            return measure_serving(settings | {"scratch": scratch})
        if what[0] == "generate":
            export_model(settings | {"scratch": scratch})
        results = measure(settings | {"scratch": scratch})
    limits = {"train": training_roofline, "finetune": training_roofline, "generate": generation_roofline}
    limits["prepare"] = lambda s: results["tiktoken"]["tokens_per_second"]
    limit = None if model else limits[what[0]](settings)
    print_table(results, limit)
    print(json.dumps(report(results, limit) | {"machine": machine(), "settings": settings}))


if __name__ == "__main__":
    main()
