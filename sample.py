"""Let a trained model go on from a text, or answer a question if it was fine-tuned on conversations.

python sample.py --out_dir=out/demo-pretrain --start=却说曹操
python sample.py --out_dir=out/demo-chat --start=张飞字什么？ --temperature=0
python sample.py --out_dir=out/demo-chat --chat              # a talk; an empty line ends it
python sample.py --out_dir=out/hotel --chat --turns=4 --table=hotels.jsonl    # a talk in which the model may search
python sample.py --out_dir=out/demo-pretrain --lora=out/lora --start=张飞字什么？    # the pretrained model with an adapter
python sample.py --out_dir=out/demo-chat --start=FILE:questions.txt --save_path=answers.jsonl
"""

import json
from contextlib import nullcontext, suppress
from pathlib import Path

from configurator import configure
from miniglm.chat import answer_with_search, complete, grow, prompt_ids, recent_turns, stream
from miniglm.checkpoint import load_model
from miniglm.errors import UserError, refuse
from miniglm.files import write_whole
from miniglm.machine import WEIGHT_DTYPES
from miniglm.search import read_table
from miniglm.tokenizer import MARKERS

# -----------------------------------------------------------------------------
out_dir = "out/demo-chat"  # the trained model, or a Hugging Face folder of the GPT-2 family
lora = ""  # the directory of an adapter to fold in
start = ""  # TEXT to go on from or a question; FILE:PATH takes one prompt a line
chat = False  # talk: ask one question after the other
table = ""  # FILE.jsonl of records, one a line, that a model which has learnt to search may search in a talk
turns = 0  # in a talk, how many earlier exchanges the model sees too; the demo's has learnt single questions
save_path = ""  # write to this file, .jsonl or plain text, instead of the terminal
num_samples = 1  # how many for each prompt; with beams the so many best
max_new_tokens = 200  # the longest completion, in tokens
temperature = 0.8  # below 1 keeps to the likely, above 1 is bolder, 0 takes the likeliest token each time
top_k = 0  # draw from the so many likeliest tokens, 0 from all
top_p = 1.0  # draw from the fewest likeliest tokens that hold this share of probability
min_p = 0.0  # leave out tokens with less than this share of the likeliest one's probability
repetition_penalty = 1.0  # above 1 makes what stands there already less likely
no_repeat_ngram_size = 0  # never repeat so many tokens in a row, 0 for no limit
num_beams = 1  # above 1: search for the likeliest text with so many beams, instead of drawing one
length_penalty = 1.0  # of beams: above 0 favours long texts, below 0 short ones
seed = 1337  # the same seed gives the same samples
device = "auto"  # auto, cpu, cuda, mps
dtype = "float32"  # of the weights: float32, bfloat16, float16 or int8; the narrower, the faster on large models
# -----------------------------------------------------------------------------

configure(
    globals(),
    limits={
        "num_samples": (1, None), "max_new_tokens": (1, None), "temperature": (0, None), "top_k": (0, None), "top_p": (1e-9, 1),
        "min_p": (0, 1), "repetition_penalty": (1e-9, None), "no_repeat_ngram_size": (0, None),
        "num_beams": (1, 64), "length_penalty": (-10, 10), "seed": (0, 2**63 - 1), "turns": (0, None),
    },
    choices={"dtype": WEIGHT_DTYPES},
)  # fmt: skip
model, tokenizer, config = load_model(out_dir, device, dtype, lora)
sampling = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
    "repetition_penalty": repetition_penalty,
    "no_repeat_ngram_size": no_repeat_ngram_size,
    "seed": seed,
}
search = {"num_beams": num_beams, "length_penalty": length_penalty}
refuse(
    num_beams != 1 and num_samples > num_beams,
    f"{num_beams} beams find no {num_samples} texts",
    "choose --num_beams as large as --num_samples",
)


def say(ids):
    """Print what follows `ids` as it comes, or when it is found by beam search; the text."""
    if num_beams > 1:
        pieces = [complete(model, tokenizer, [ids], max_new_tokens, **search, **sampling)[0].text]
    else:
        pieces = (piece for (piece,) in stream(model, tokenizer, [ids], max_new_tokens, **sampling))
    text = ""
    for piece in pieces:
        print(piece, end="", flush=True)
        text += piece
    print()
    return text


def say_with_search(messages, records):
    """Print what the model looks for, what is found, and the answer; the messages that this adds."""
    added = []
    for role, piece in answer_with_search(model, tokenizer, messages, records, max_new_tokens, **sampling):
        if grow(added, role, piece):
            print("\n" * (len(added) > 1) + MARKERS[role], end="")
        print(piece, end="", flush=True)
    print()
    return added


def talk():
    """Ask and answer until an empty line or the end of the input."""
    refuse(not config["chat"], f"{out_dir} has not learnt to talk", "choose a model fine-tuned on conversations")
    records, messages = read_table(table) if table else None, []
    refuse(
        not config["searches"] and table,
        f"{out_dir} has not learnt to search",
        "leave --table away, or train it on talks with searches",
    )
    while question := input(MARKERS["user"]).strip():
        asked = [*messages, {"role": "user", "content": question}]
        shown = recent_turns(model, tokenizer, asked, turns)
        try:
            if records:
                messages = asked + say_with_search(shown, records)
                continue
            ids = prompt_ids(model, tokenizer, shown, True)
        except UserError as error:
            print(error)
            continue
        print(MARKERS["assistant"], end="", flush=True)
        messages = [*asked, {"role": "assistant", "content": say(ids)}]


refuse(table and not chat, "--table is searched in a talk", "add --chat")
refuse(table and num_beams != 1, "beams cannot search a table", "leave --num_beams away")
if chat:
    refuse(start or save_path, "--chat asks for its questions itself", "leave --start and --save_path away")
    with suppress(EOFError):  # Ctrl-D
        talk()
    raise SystemExit
if start.startswith("FILE:"):
    path = Path(start.removeprefix("FILE:"))
    refuse(
        not path.is_file(), f"no file {path}", "check --start=FILE:PATH; relative paths count from the repository root"
    )
    try:
        prompts = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text", "save it as UTF-8") from error
    refuse(not prompts, f"{path} is empty", "write one prompt a line")
else:
    prompts = [start or ("张飞是谁？" if config["chat"] else "却说")]
inputs = [prompt_ids(model, tokenizer, prompt, config["chat"]) for prompt in prompts]
if len(prompts) == num_samples == 1 and not save_path:
    print(prompts[0], end="\n" if config["chat"] else "", flush=True)
    say(inputs[0])
else:
    between = "\n" if config["chat"] else ""
    prompts = [prompt for prompt in prompts for _ in range(num_samples)]
    with write_whole(save_path) if save_path else nullcontext() as file:
        completions = complete(model, tokenizer, inputs, max_new_tokens, num_samples, **search, **sampling)
        if save_path.endswith(".jsonl"):
            for prompt, made in zip(prompts, completions):
                row = {
                    "prompt": prompt,
                    "completion": made.text,
                    "tokens": made.tokens,
                    "seconds": round(made.seconds, 4),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            print("\n\n".join(prompt + between + made.text for prompt, made in zip(prompts, completions)), file=file)
    if save_path:
        print(f"{save_path}: {len(completions)} samples in {sum(made.seconds for made in completions):.1f} s")
