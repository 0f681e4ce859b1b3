"""Turn judgements into a data set to learn from: FILE.jsonl … -> data/DATASET/*.bin and meta.json.

    python data/prepare_pairs.py data/sanguo_sft/pairs.jsonl --dataset=sanguo_pairs --tokenizer_from=out/demo-chat
    python data/prepare_pairs.py data/sanguo_sft/prompts.jsonl --dataset=sanguo_prompts --tokenizer_from=out/demo-chat

Pairs are a question with a better and a worse answer ("chosen", "rejected"), in the forms that public sets for DPO use:
texts, messages or whole conversations. --objective=reward and dpo learn from them. Files without pairs hold prompts,
questions with a "Key" or an "Answer" to judge by, which --objective=grpo and ppo let the model answer itself. What is
left out and what is changed is counted and told by reason.
"""

import json
import random
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import Bounds, FilePath, configure
from miniglm.book.passages import copy_book
from miniglm.conversation import encode_conversation, normalised
from miniglm.errors import refuse
from miniglm.files import claim, is_plain_name, sha256, write_json, write_whole
from miniglm.metrics import read_questions
from miniglm.records import BadRecord, conditions, pair_of, read_records
from miniglm.rows import Prepared, Sources, any_searches, normalisation_for, write_rows
from miniglm.vocabulary import load_tokenizer, read_config

# -----------------------------------------------------------------------------
files: list[FilePath] = []  # the records, one or more FILE.jsonl given without --
dataset = ""  # data/DATASET is written
tokenizer_from: FilePath = "out/demo-chat"  # the model that is to learn from it, or a data set with its tokenizer
block_size: Annotated[int, Bounds(16, 65535)] = 512  # tokens of context; of a pair both answers stand in one row
where = ""  # FIELD=VALUE[,FIELD=VALUE ...]: only records whose fields have these values; of one field any of them
normalise = True  # questions as miniglm/typed.py has it; never for open weights
strict = False  # stop at the first bad record
val_file: FilePath = ""  # FILE.jsonl of records to validate on
val_fraction: Annotated[float, Bounds(0, 0.5)] = 0.05  # without it: share of records that are validated on, not trained
seed = 1337  # which records those are
# -----------------------------------------------------------------------------


def holds_pairs(paths) -> bool:
    """Whether any record of some files is a pair."""
    for path in paths:
        for _, record in read_records(path):
            with suppress(BadRecord):
                pair_of(record)
                return True
    return False


def prepare(record, encoder, room, normalisation, searches) -> Prepared:
    """A pair as the model reads it: two samples, of which what the assistant says after the question is learnt.

    searches: the assistant may call the search tool. Raises BadRecord, and UserError as the tokenizer does.
    """
    form, asked, better, worse, changes = pair_of(record)
    before = len(encode_conversation(encoder, normalised(asked, normalisation))[0])
    samples = []
    for answer in (better, worse):
        ids, mask = encode_conversation(encoder, normalised([*asked, *answer], normalisation), searches)
        samples.append((ids, [0] * before + mask[before:]))
    if sum(len(ids) for ids, _ in samples) > room:
        raise BadRecord("is longer than the block, both answers together")
    if samples[0][0] == samples[1][0]:
        raise BadRecord("has the same answer twice, as the model reads it")
    return Prepared(form, samples, changes)


def write_prompts(folder, sources, about):
    """Write train.jsonl and val.jsonl of questions, and meta.json."""
    split = {"train": [], "val": [record for path in sources.val_files for record in read_questions(path)]}
    drawn, held_out = random.Random(sources.seed), not sources.val_files
    for path in sources.files:
        questions = read_questions(path, sources.wanted)
        print(f"{path}: kept {len(questions):,} as prompts")
        for record in questions:
            split["val" if held_out and drawn.random() < sources.val_fraction else "train"].append(record)
    split["val"] = split["val"] or split["train"][:1]
    for name, records in split.items():
        with write_whole(folder / f"{name}.jsonl") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        print(f"{folder / name}.jsonl: {len(records):,} prompts")
    hashes = [{"name": Path(path).name, "sha256": sha256(path)} for path in sources.all]
    encoder.save(folder)
    copy_book(Path(sources.files[0]).parent, folder)
    counts = {name: {"prompts": len(records)} for name, records in split.items()}
    write_json(folder / "meta.json", {"kind": "prompts", "splits": counts, "sources": hashes, **about})


configure(globals(), positional="files")
refuse(not files, "no records to read", "name one FILE.jsonl or more")
refuse(not is_plain_name(dataset), f"--dataset={dataset} is no name", "give --dataset=NAME; it goes to data/NAME")
encoder = load_tokenizer(tokenizer_from)
normalisation = normalisation_for(files, tokenizer_from) if normalise else None
target = Path("data", dataset)
claim(target)
sources = Sources(files, [val_file] if val_file else [], val_fraction, seed, conditions(where), strict)
searches = bool(read_config(tokenizer_from).get("searches")) or any_searches(sources.all)
about = {"searches": searches, "normalisation": normalisation and normalisation.to_json()}
if holds_pairs(sources.all):
    read = partial(prepare, encoder=encoder, room=block_size, normalisation=normalisation, searches=searches)
    # A reward model scores where an answer's last token is read, so that a row's last id is never one.
    write_rows(target, "pairs", read, sources, encoder, block_size + 1, pack=True, about=about, spare=1)
else:
    write_prompts(target, sources, {**about, "tokenizer": encoder.name, "vocab_size": encoder.vocab_size})
