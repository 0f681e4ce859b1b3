"""The whole way once: fetch the novel, train on it, fine-tune on questions about it, measure, ask, draw.

    make demo          # or, in an environment that has requirements.txt: python demo.py

A stage that is finished leaves done.json in its directory and is not run again; one that was interrupted is resumed.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from configurator import configure
from errors import UserError
from files import read_json, write_json, write_whole

# -----------------------------------------------------------------------------
out_dir = "out"  # demo-pretrain and demo-chat are written below it; a path without spaces
# -----------------------------------------------------------------------------

QUESTIONS = [
    "张飞字什么？",
    "谁字孔明？",
    "赵云是谁？",
    "请问黄忠的表字是什么？",
    "第一百零六回的回目是什么？",
    "“诸葛亮舌战群儒”是第几回？",
    "最早同时写到曹操和许褚的是哪一句？",
    "书中出现最多的三个人物是谁？",
]

configure(globals())
pretrained, chat = f"{out_dir}/demo-pretrain", f"{out_dir}/demo-chat"
questions_file = f"{chat}/demo_questions.txt"
STAGES = {  # directory: the commands that fill it
    "data/sanguo": ["data/fetch_data.py sanguo"],
    "data/sanguo_bpe": ["data/prepare.py sanguo --tokenizer=bpe"],
    "data/sanguo_sft": [
        "data/build_sft.py sanguo",
        "data/prepare_sft.py data/sanguo_sft/questions.jsonl --val_file=data/sanguo_sft/val.jsonl --dataset=sanguo_sft"
        " --tokenizer_from=data/sanguo_bpe",
    ],
    pretrained: [
        f"train.py config/demo_pretrain.py --out_dir={pretrained}",
        f"evaluations.py --out_dir={pretrained} --save_path={pretrained}/metrics.json",
        f"visualize.py --out_dir={pretrained}",
        f"sample.py --out_dir={pretrained} --start=却说曹操 --max_new_tokens=120",
    ],
    chat: [
        f"train.py config/demo_chat.py --out_dir={chat} --ckpt_dir={pretrained}",
        f"evaluations.py --out_dir={chat} --eval_file=data/sanguo_sft/eval.jsonl --book=data/sanguo/input.txt"
        f" --save_path={chat}/metrics.json --answers_path={chat}/answers.jsonl",
        f"visualize.py --out_dir={chat}",
        f"sample.py --out_dir={chat} --start=FILE:{questions_file} --temperature=0",
    ],
}


def recipe(commands):
    """A digest of a stage's commands and the config files they name, to notice that a finished stage was another one."""
    configs = [
        Path(word).read_bytes() for command in commands for word in command.split() if word.startswith("config/")
    ]
    return hashlib.sha256("\n".join(commands).encode() + b"".join(configs)).hexdigest()


def run(directory, commands):
    """Run the commands of one stage and leave done.json."""
    started = time.monotonic()
    for command in commands:
        print(f"\n=== python {command}", flush=True)
        process = subprocess.Popen([sys.executable, *command.split()])
        while process.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # the command has it too, and saves what it has
                process.wait()
        if process.returncode:
            raise SystemExit(process.returncode)
        if command.startswith("train.py") and stopped_early(directory):
            raise UserError("the training was stopped", "run the same command again, it goes on where it was")
    write_json(
        f"{directory}/done.json",
        {"commands": commands, "recipe": recipe(commands), "seconds": round(time.monotonic() - started, 1)},
    )


def stopped_early(directory):
    """Whether the checkpoint in a training's directory stands before its last step."""
    config = read_json(f"{directory}/config.json", "run the same command again")
    return config.get("iter_num", 0) < config.get("settings", {}).get("max_iters", 1)


def peak_memory():
    """The most memory any one of the commands took, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


started = time.monotonic()
for directory, commands in STAGES.items():
    done = Path(directory, "done.json")
    if done.exists():
        same = read_json(done, f"delete {done} and run again").get("recipe") == recipe(commands)
        if not same:
            raise UserError(
                f"{directory} was finished with other settings",
                f"delete {directory} to make it anew, or restore the settings",
            )
        print(f"{directory}: finished before")
        continue
    if directory == chat:
        with write_whole(questions_file) as file:
            file.write("\n".join(QUESTIONS) + "\n")
    run(directory, commands)

stages = {
    directory: json.loads(Path(directory, "done.json").read_text(encoding="utf-8"))["seconds"] for directory in STAGES
}
print("\n" + "\n".join(f"{directory:20} {seconds:7.1f} s" for directory, seconds in stages.items()))
print(
    f"this run {(time.monotonic() - started) / 60:.1f} min"
    + (f", peak memory {peak_memory() / 2**30:.2f} GiB" if peak_memory() else "")
)
print(
    f"pictures: {pretrained}/loss.png {chat}/loss.png {chat}/metrics.png\nnow talk to it: make chat, or python sample_gradio.py --out_dir={chat}"
)
