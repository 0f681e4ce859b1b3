"""The whole way once: fetch the novel, train on it, fine-tune on questions about it, measure, ask, draw.

    make demo          # or, in an environment that has requirements.txt: python demo.py
    make report        # python demo.py report: the report's experiment, 1,000 against 4,500 steps of fine-tuning
    make reviews       # python demo.py reviews: classification as generation, good or bad reviews
    make hotel         # python demo.py hotel: an assistant that searches a table of hotels
    make align         # python demo.py align: a reward model, DPO, GRPO and PPO from the demo's model
    make lora          # python demo.py lora: the demo's questions with LoRA and QLoRA beside full fine-tuning

A stage that is finished leaves done.json in its directory and is not run again; one that was interrupted is resumed.
"""

import contextlib
import hashlib
import shlex
import subprocess
import sys
import time
from pathlib import Path

from configurator import FilePath, configure
from miniglm.errors import UserError, refuse
from miniglm.files import claim, read_json, write_json, write_whole
from miniglm.machine import peak_memory

# -----------------------------------------------------------------------------
what = ["chat"]  # which experiment, given without --: chat, report, reviews, hotel, align or lora
out_dir: FilePath = "out"  # the trained models are written below it
# -----------------------------------------------------------------------------

QUESTIONS = [
    "你好呀！",
    "赵云是谁？",
    "谁字孔明？",
    "夏侯渊死在谁手里？",
    "关云长用的是什么刀",
    "马超的爹叫什么",
    "草船借箭是哪一回？",
    "第一百零六回讲的是什么？",
    "最早同时写到曹操和许褚的是哪一句？",
    "鲁智深是谁？",
    "今天天气怎么样？",
]

configure(globals(), positional="what")
out = shlex.quote(out_dir)  # directories and commands are spelt as a shell has them: there may be a space in a path
pretrained, chat = f"{out}/demo-pretrain", f"{out}/demo-chat"
questions_file = f"{chat}/demo_questions.txt"
NOVEL = {  # directory: the commands that fill it
    "data/sanguo": ["data/fetch_data.py sanguo"],
    "data/sanguo_bpe": ["data/prepare.py sanguo --tokenizer=bpe"],
    pretrained: [
        f"train.py config/demo_pretrain.py --out_dir={pretrained}",
        f"evaluations.py --out_dir={pretrained} --save_path={pretrained}/metrics.json",
        f"visualize.py --out_dir={pretrained}",
        f"sample.py --out_dir={pretrained} --start=却说曹操 --max_new_tokens=120",
    ],
}
CHAT = {
    "data/sanguo_sft": [
        "data/build_sft.py sanguo --natural=tests/natural.jsonl",
        "data/prepare_sft.py data/sanguo_sft/questions.jsonl --val_file=data/sanguo_sft/val.jsonl --dataset=sanguo_sft"
        " --tokenizer_from=data/sanguo_bpe --block_size=512",
    ],
    chat: [
        f"train.py config/demo_chat.py --out_dir={chat} --ckpt_dir={pretrained}",
        f"evaluations.py --out_dir={chat} --eval_file=data/sanguo_sft/eval.jsonl --book=data/sanguo/input.txt"
        f" --save_path={chat}/metrics.json --answers_path={chat}/answers.jsonl",
        f"visualize.py --out_dir={chat}",
        f"sample.py --out_dir={chat} --start=FILE:{questions_file} --temperature=0",
    ],
}
REPORT = {
    "data/sanguo_report": [
        "data/build_sft.py sanguo --dataset=sanguo_report --wordings=1 --min_mentions=25 --max_pairs=60"
        " --absent_share=0 --unseen_share=0.35 --small_talk=0 --lookups=0 --follow_ups=0 --validation=unseen"
        " --eval_questions=100",
        "data/prepare_sft.py data/sanguo_report/questions.jsonl --val_file=data/sanguo_report/val.jsonl"
        " --dataset=sanguo_report --tokenizer_from=data/sanguo_bpe --block_size=512",
    ],
    **{
        f"{out}/report-{steps}": [
            f"train.py config/report.py --max_iters={steps} --out_dir={out}/report-{steps} --ckpt_dir={pretrained}"
        ]
        for steps in (1000, 4500)
    },
    f"{out}/report": [
        f"evaluations.py --out_dir={out}/report-1000 --out_dir={out}/report-4500"
        " --eval_file=data/sanguo_report/eval.jsonl --book=data/sanguo/input.txt"
        f" --save_path={out}/report/metrics.json --report={out}/report/report.html"
    ],
}
REVIEWS = {
    "data/reviews": ["data/fetch_data.py reviews"],
    "data/reviews_bpe": ["data/prepare.py reviews --tokenizer=bpe"],
    f"{out}/reviews-pretrain": [
        f"train.py config/reviews_pretrain.py --out_dir={out}/reviews-pretrain",
        f"visualize.py --out_dir={out}/reviews-pretrain",
    ],
    "data/reviews_sft": [
        "data/prepare_sft.py data/reviews/train.jsonl --dataset=reviews_sft --tokenizer_from=data/reviews_bpe"
    ],
    f"{out}/reviews": [
        f"train.py config/reviews.py --out_dir={out}/reviews --ckpt_dir={out}/reviews-pretrain",
        f"evaluations.py --out_dir={out}/reviews --eval_file=data/reviews/eval.jsonl"
        f" --yardstick=data/reviews/train.jsonl --too_long=wrong --save_path={out}/reviews/metrics.json",
        f"visualize.py --out_dir={out}/reviews",
    ],
}
HOTEL = {
    "data/hotel": ["data/build_hotel.py"],
    "data/hotel_bpe": ["data/prepare.py hotel --tokenizer=bpe --vocab_size=2048"],
    "data/hotel_sft": [
        "data/prepare_sft.py data/hotel/questions.jsonl --val_file=data/hotel/val.jsonl --dataset=hotel_sft"
        " --tokenizer_from=data/hotel_bpe --block_size=512"
    ],
    f"{out}/hotel": [
        f"train.py config/hotel.py --out_dir={out}/hotel",
        f"evaluations.py --out_dir={out}/hotel --eval_file=data/hotel/eval.jsonl --table=data/hotel/hotels.jsonl"
        f" --save_path={out}/hotel/metrics.json --answers_path={out}/hotel/answers.jsonl",
        f"visualize.py --out_dir={out}/hotel",
    ],
}
JUDGED = ["dpo", "grpo", "ppo"]
ALIGN = {
    "data/sanguo_align": [
        f"data/build_sft.py sanguo --dataset=sanguo_align --natural=tests/natural.jsonl --pairs_from={chat}"
        " --prompts=2400"
    ],
    "data/sanguo_pairs": [
        "data/prepare_pairs.py data/sanguo_align/pairs.jsonl --dataset=sanguo_pairs --val_fraction=0.15"
        f" --tokenizer_from={chat}"
    ],
    "data/sanguo_prompts": [
        f"data/prepare_pairs.py data/sanguo_align/prompts.jsonl --dataset=sanguo_prompts --tokenizer_from={chat}"
    ],
    f"{out}/align-reward": [
        f"train.py config/align_reward.py --out_dir={out}/align-reward --ckpt_dir={chat}",
        f"evaluations.py --out_dir={out}/align-reward --save_path={out}/align-reward/metrics.json",
    ],
    **{
        f"{out}/align-{name}": [f"train.py config/align_{name}.py --out_dir={out}/align-{name} --ckpt_dir={chat}"]
        for name in JUDGED
    },
    f"{out}/align": [
        f"evaluations.py --out_dir={chat} {' '.join(f'--out_dir={out}/align-{name}' for name in JUDGED)}"
        " --eval_file=data/sanguo_sft/eval.jsonl --most=80 --save_each=align.json"
        f" --report={out}/align/report.html"
    ],
}
ADAPTERS = {"lora-4": "", "lora-8": "", "lora-32": "", "qlora-8": " --quantize=nf4 --gradient_checkpointing=True"}
LORA = {
    **{
        f"{out}/{name}": [
            f"train.py config/lora.py --lora_rank={rank} --lora_alpha={2 * rank}{more} --out_dir={out}/{name}"
            f" --ckpt_dir={pretrained}"
        ]
        for name, more in ADAPTERS.items()
        for rank in [int(name.rpartition("-")[2])]
    },
    f"{out}/lora-report": [
        f"evaluations.py --out_dir={chat} {' '.join(f'--out_dir={out}/{name}' for name in ADAPTERS)}"
        f" --eval_file=data/sanguo_sft/eval.jsonl --save_path={out}/lora-report/metrics.json"
        f" --report={out}/lora-report/report.html"
    ],
}
LABELS = {
    f"{out}/lora-reviews": [
        f"train.py config/lora_reviews.py --out_dir={out}/lora-reviews --ckpt_dir={out}/reviews-pretrain",
        f"evaluations.py --out_dir={out}/reviews --out_dir={out}/lora-reviews --eval_file=data/reviews/eval.jsonl"
        f" --too_long=wrong --save_path={out}/lora-reviews/metrics.json --report={out}/lora-reviews/report.html",
    ],
}
EXPERIMENTS = {
    "chat": NOVEL | CHAT,
    "report": NOVEL | REPORT,
    "reviews": REVIEWS,
    "hotel": HOTEL,
    "align": NOVEL | CHAT | ALIGN,
    "lora": NOVEL | CHAT | LORA | REVIEWS | LABELS,
}


def recipe(commands):
    """A digest of a stage's commands and of the config files they name: whether a finished stage was this one."""
    configs = [
        Path(word).read_bytes() for command in commands for word in shlex.split(command) if word.startswith("config/")
    ]
    return hashlib.sha256("\n".join(commands).encode() + b"".join(configs)).hexdigest()


def run(directory, commands):
    """Run the commands of one stage and leave done.json."""
    started = time.monotonic()
    for command in commands:
        print(f"\n=== python {command}", flush=True)
        process = subprocess.Popen([sys.executable, *shlex.split(command)])
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
    return config["iter_num"] < config["settings"]["max_iters"]


def seconds_of(directory):
    """How long a finished stage took."""
    seconds = read_json(f"{directory}/done.json", "run again").get("seconds")
    refuse(not isinstance(seconds, float), f"{directory}/done.json is broken", f"delete {directory} and run again")
    return seconds


started = time.monotonic()
refuse(
    len(what) != 1 or what[0] not in EXPERIMENTS,
    f"no experiment {' '.join(what)}",
    f"choose one of {', '.join(EXPERIMENTS)}",
)
stages = {shlex.split(directory)[0]: commands for directory, commands in EXPERIMENTS[what[0]].items()}
claim(out_dir)
for directory, commands in stages.items():
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
    if directory == f"{out_dir}/demo-chat":
        with write_whole(f"{directory}/demo_questions.txt") as file:
            file.write("\n".join(QUESTIONS) + "\n")
    run(directory, commands)

taken = {directory: seconds_of(directory) for directory in stages}
print("\n" + "\n".join(f"{directory:20} {seconds:7.1f} s" for directory, seconds in taken.items()))
memory = peak_memory(of_children=True)
shown = f", peak memory {memory / 2**30:.2f} GiB" if memory else ""
print(f"this run {(time.monotonic() - started) / 60:.1f} min{shown}")
LAST_WORDS = {
    "chat": f"pictures: {pretrained}/loss.png {chat}/loss.png {chat}/metrics.png\n"
    f"now talk to it: make chat, or python sample_gradio.py --out_dir={chat}",
    "report": f"open {out}/report/report.html in a browser",
    "hotel": f"now talk to it: python sample_gradio.py --out_dir={out}/hotel --table=data/hotel/hotels.jsonl",
    "align": f"open {out}/align/report.html in a browser",
    "lora": f"facts: open {out}/lora-report/report.html in a browser; labels: {out}/lora-reviews/report.html",
    "reviews": f"pictures: {out}/reviews/loss.png; try it: python sample.py --out_dir={out}/reviews --start=REVIEW",
}
print(LAST_WORDS[what[0]])
