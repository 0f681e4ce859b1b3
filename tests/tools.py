"""What the tests share: a copy of the project whose scripts run as a user runs them, and what small models learn."""

import contextlib
import gc
import io
import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import requests
import safetensors.torch
import torch

# A script that runs in this process takes these, and not those of its own folder, which are the same.
import configurator
import data_utils  # noqa: F401
import model
from miniglm import files

ROOT = Path(__file__).resolve().parents[1]

# Two tests run at once: torch has one thread in each, and in the processes that they start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

SMALL = ["--n_layer=2", "--n_head=2", "--n_embd=64", "--block_size=128", "--batch_size=8", "--dtype=float32"]
MODERN = [  # the demo's kind of decoder, see config/demo_pretrain.py
    "--norm=rms", "--norm_eps=1e-6", "--norm_weight=False", "--embedding_norm=True", "--qk_norm=True",
    "--attention_scale=0.12", "--positions=rope", "--activation=silu", "--gated=True", "--zero_init=True",
    "--bias=False",
]  # fmt: skip
TALK = [  # few enough to be learnt by heart in seconds
    ("张飞字什么？", "张飞字翼德。"),
    ("赵云字什么？", "赵云字子龙。"),
    ("谁字孔明？", "字孔明的是诸葛亮。"),
    ("第一回的回目是什么？", "第一回的回目是「宴桃园豪杰三结义」「斩黄巾英雄首立功」。"),
]
SWAPPED = [
    (question, TALK[place ^ 1][1]) for place, (question, _) in enumerate(TALK)
]  # each has its neighbour's answer
LORA = [  # an adapter for the model that knows TALK
    "train.py", "--init_from=finetune", "--ckpt_dir=out/talk", "--dataset=swapped", "--batch_size=4", "--eval_iters=1",
    "--lora_rank=4", "--learning_rate=1e-2", "--warmup_iters=5", "--dtype=float32", "--log_interval=1", "--min_lr=1e-3",
]  # fmt: skip
HOTELS = [
    {"名": "香江酒店", "型": "舒适", "价": 328, "有": ["暖气", "行李寄存"]},
    {"名": "如家酒店", "型": "经济", "价": 150, "有": ["暖气"]},
    {"名": "万豪酒店", "型": "豪华", "价": 980, "有": ["泳池", "暖气"]},
]
# A story of our time, in chapters: three people who speak and walk, an old tree, and words that begin as surnames do.
TALK_OF_TODAY = "".join(
    f"""第{number}章 第{number}天
林小满走进教室，马上坐了下来。陈大川问：“今天考什么？”林小满说：“考历史。”
苏晴笑着对林小满说：“你昨晚又没睡。”陈大川走到窗边，看着院子里的老槐。
“老槐又开花了。”苏晴说。林小满点头，高兴地笑了。老师说，下课以后再去。
陈大川想了想，没有说话。苏晴走了，林小满问陈大川：“她怎么了？”
"""
    for number in range(1, 9)
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def talk(hotel):
    """A talk about one hotel, as a record."""
    return [
        {"role": "user", "content": f"我要住{hotel['型']}酒店。"},
        {"role": "search", "arguments": {"型": hotel["型"]}},
        {"role": "return", "records": [hotel]},
        {"role": "assistant", "content": f"请住{hotel['名']}。"},
        {"role": "user", "content": "多少钱？"},
        {"role": "assistant", "content": f"每晚{hotel['价']}元。"},
    ]


def lines(talk):
    """Questions and answers as JSON lines; the answer is the Key, too."""
    return "".join(json.dumps({"Question": q, "Answer": a, "Key": a}) + "\n" for q, a in talk)


def events(directory, split="train"):
    """The events of a log."""
    lines = (directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["split"] == split]


def logits_differ(theirs, ours, vocab_size, length=24):
    """The largest difference of two models' logits on random ids."""
    ids = torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return (theirs(ids).logits - ours(ids)[0]).abs().max().item()


def random_model(**knobs):
    """A small random model with some knobs, its weights large enough that its choices differ."""
    torch.manual_seed(0)
    sizes = {"block_size": 24, "vocab_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 32}
    network = model.MiniGLM(model.GLMConfig(**(sizes | knobs))).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(5.0) if parameter.dim() == 2 else parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def fill_adapters(network, std):
    """Give the adapters that were put on a network random changes; new ones change nothing."""
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)


def assert_llama_knows_the_talk(path):
    """llama.cpp answers the questions of TALK from a GGUF file, in its chat form, greedy, and stops."""
    server = llama_server(path)
    for question, answer in TALK:
        request = {"messages": [{"role": "user", "content": question}], "max_tokens": 60, "temperature": 0}
        reply = server.handle_chat_completions(request)["choices"][0]
        assert (reply["message"]["content"], reply["finish_reason"]) == (answer, "stop")


def edit_json(path, **changes):
    """Change values of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), encoding="utf-8")


def edit_weights(path, **changes):
    """Change tensors of a safetensors file; None takes one out."""
    weights = safetensors.torch.load_file(path) | {name.replace("__", "."): value for name, value in changes.items()}
    safetensors.torch.save_file({name: value for name, value in weights.items() if value is not None}, path)


class Hanging(BaseException):
    """What no script takes for a fault of its input."""


@contextlib.contextmanager
def no_longer_than(seconds):
    """Raise Hanging in the block when it takes longer, where the system has alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(number, frame):
        raise Hanging(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def as_new_process(folder, words, typed=None, environment=None):
    """Let the block find what a process finds that `python WORDS` has begun in `folder`; put all back at its end.

    Gives (stdout, stderr), text streams over BytesIO. Modules stay those of this process.
    """
    stdin, stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8") for text in (typed or "", "", "")
    )

    def show_warning(*words, **_):
        stderr.write(warnings.formatwarning(*words[:4]))

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    drawn, drawn_by_numpy, running = random.getstate(), np.random.get_state(), set(threading.enumerate())
    streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr, "__stderr__": stderr}
    path = [str(Path(folder, words[0]).parent), *sys.path]
    with (
        contextlib.chdir(folder),
        mock.patch.object(configurator, "ROOT", Path(folder)),
        mock.patch.multiple(sys, argv=list(words), path=path, excepthook=sys.__excepthook__, **streams),
        mock.patch.dict(os.environ, environment or {}),
        mock.patch.dict(files.claims, clear=True),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
    ):
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.showwarning = show_warning
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        try:
            yield stdout, stderr
        finally:
            files.release_claims()
            random.setstate(drawn)
            np.random.set_state(drawn_by_numpy)
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            gc.collect()  # models, and memory-mapped files
            gc.freeze()  # what is left is not looked at again, so that the next time is quick
            for thread in set(threading.enumerate()) - running:
                if not thread.daemon:
                    thread.join(10)


def run_script(path):
    """Run a script as __main__ until it ends, and print what Python would print of an exception; its exit status."""
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except (Hanging, KeyboardInterrupt):
        raise
    except BaseException as error:
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except SystemExit as end:
            return int(end.code or 0)
        return 1
    return 0


class Project:
    """A folder with the project's scripts, and a way to run them as a user would."""

    def __init__(self, folder):
        """The copy in a folder; it is made where there is none."""
        self.folder = Path(folder)
        if self.folder.exists():
            return
        shutil.copytree(
            ROOT, self.folder, ignore=shutil.ignore_patterns(".*", "out*", "models", "__pycache__", "tests")
        )
        (self.folder / "tests").mkdir()  # what the demo reads there
        shutil.copyfile(ROOT / "tests/natural.jsonl", self.folder / "tests/natural.jsonl")
        for data_set in [path for path in (self.folder / "data").iterdir() if path.is_dir()]:
            shutil.rmtree(data_set)

    def run(self, *words, status=0, timeout=600, typed=None, process=False, **environment):
        """Run `python WORDS`, with `typed` on its input; check its exit status, give stdout and stderr.

        A script runs in this process, without the seconds that a new one needs for its imports. `process` asks for a
        new one, and so do -c and -m.
        """
        words = list(map(str, words))
        run = self._in_new_process if process or words[0].startswith("-") else self._in_this_process
        done = run(words, timeout, typed, environment)
        assert done.returncode == status, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def _in_new_process(self, words, timeout, typed, environment):
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            input=typed,
            encoding="utf-8",
            timeout=timeout,
            env={**os.environ, "PYTHONUTF8": "1", **environment},
        )

    def _in_this_process(self, words, timeout, typed, environment):
        with no_longer_than(timeout), as_new_process(self.folder, words, typed, environment) as streams:
            status = run_script(self.folder / words[0])
        for stream in streams:
            stream.flush()
        output = [stream.buffer.getvalue().decode().replace("\r\n", "\n").replace("\r", "\n") for stream in streams]
        return subprocess.CompletedProcess(words, status, *output)

    def fails(self, *words, **more):
        """Run `python WORDS`, which must fail as a user's mistake does; give the message after `error: `."""
        done = self.run(*words, status=2, **more)
        last = done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr and last.startswith("error: ") and "; " in last, done.stderr
        return last.removeprefix("error: ")

    def write(self, path, text, encoding="utf-8"):
        """Write a file below the project."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path


def start(project, words, **environment):
    """Begin `python WORDS` in a process; what it says on stderr can be read by `said`."""
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=os.environ | environment,
    )
    process.errors = errors
    return process


def said(process):
    """What a process of `start` has said on stderr until now."""
    process.errors.seek(0)
    return process.errors.read()


def wait_until(condition, process, seconds=300):
    """Wait until condition() holds of a process that goes on running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, said(process)
        time.sleep(0.01)


def wait_for(path, process):
    """Wait until a file is there."""
    wait_until(path.exists, process)


def kill(process, out_dir):
    """SIGKILL for a run, and for the processes that torchrun has started in sessions of their own."""
    subprocess.run(["pkill", "-9", "-f", f"out_dir={out_dir} "])
    process.wait()


def state(directory, file="ckpt.pt"):
    """What a checkpoint holds, without the time it took and the settings of the call."""
    checkpoint = torch.load(directory / file, weights_only=True)
    return {key: value for key, value in checkpoint.items() if key not in ("seconds", "step_seconds", "settings")}


def same(one, two):
    """Whether two nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def assert_same_run(untouched, other):
    """Two runs ended with the same losses, weights, optimizer states and best checkpoint."""
    for split in ("train", "train_eval", "val"):
        losses = [[(event["iter"], event["loss"]) for event in events(run, split)] for run in (untouched, other)]
        assert losses[0] == losses[1] and losses[0]
    assert same(state(untouched), state(other))
    assert same(state(untouched, "best.pt"), state(other, "best.pt"))
    assert not list(other.glob("*.partial"))


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def axe_script(folder):
    """The source of axe-core, which checks whether everybody can use a page; it is read out of a package's wheel."""
    words = ["pip", "download", "--no-deps", "--quiet", "--dest", str(folder), "axe-playwright-python==0.1.8"]
    subprocess.run([sys.executable, "-m", *words], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.read("axe_playwright_python/axe.min.js").decode()


def serve_page(project, out_dir, *more, port=None, **environment):
    """The chat page on a model, in this environment: yields (its address, the server's process)."""
    port = port or free_port()
    said = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would be full some day, and the server wait for ever
    server = subprocess.Popen(
        [sys.executable, "sample_gradio.py", f"--out_dir={out_dir}", f"--port={port}", *more],
        cwd=project.folder, stdout=said, stderr=subprocess.STDOUT, env=os.environ | environment,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert server.poll() is None, (said.seek(0), said.read())
            try:
                requests.get(url, timeout=5)
                break
            except requests.RequestException:
                time.sleep(0.1)
        yield url, server
    finally:
        server.kill()
        server.wait()
        said.close()


def seconds_computed(server):
    """CPU seconds that the server has used so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")")[-1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(server):
    """Whether the server computes next to nothing for a second."""
    before = seconds_computed(server)
    time.sleep(1)
    return seconds_computed(server) - before < 0.3


def onnx_step(session, ids, mask, past=None):
    """(logits, keys and values) of ids (rows, new), mask (rows, past and new); no past: none yet."""
    names = [each.name for each in session.get_inputs()][2:]
    if past is None:
        _, heads, _, size = session.get_inputs()[2].shape
        past = [np.zeros((len(ids), heads, 0, size), np.float32)] * len(names)
    feed = {"input_ids": np.array(ids), "attention_mask": np.array(mask), **dict(zip(names, past))}
    logits, *past = session.run(None, feed)
    return logits, past


def llama_server(path, lora=None):
    """llama.cpp's server on a GGUF file. lora: the file of an adapter beside it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.verbosity = 1, 0
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(params)
