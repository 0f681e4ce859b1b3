"""Turn questions and conversations into rows for fine-tuning: FILE.jsonl … -> data/DATASET/*.bin and meta.json.

    python data/prepare_sft.py data/sanguo_sft/questions.jsonl --dataset=sanguo_sft --tokenizer_from=data/sanguo_bpe

Reads questions with answers and conversations in the forms that public data sets use (Alpaca, ShareGPT, OpenAI, MOSS,
…): a record a line, one JSON list, or records of several lines each; see miniglm/records.py. What is left out and what
is changed is counted and told by reason. Files are read in a stream: memory stays flat however large they are. See
miniglm/conversation.py for how a turn is written.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import Bounds, FilePath, configure
from miniglm.conversation import encode_conversation, normalised
from miniglm.errors import refuse
from miniglm.files import claim, is_plain_name
from miniglm.records import BadRecord, Turn, conditions, turns_of
from miniglm.rows import Prepared, Sources, any_searches, normalisation_for, write_rows
from miniglm.vocabulary import load_tokenizer

# -----------------------------------------------------------------------------
files: list[FilePath] = []  # the records, one or more FILE.jsonl given without --
dataset = ""  # data/DATASET is written
tokenizer_from: FilePath = "data/sanguo_bpe"  # the data set or out_dir whose tokenizer the model was trained with
block_size: Annotated[int, Bounds(8, 65535)] = 256  # tokens of context; the model's own
pack = True  # several samples in a row; each still sees only itself
too_long: Literal["drop", "truncate", "keep_end"] = "drop"  # what goes of a sample longer than a row: all, end, front
where = ""  # FIELD=VALUE[,FIELD=VALUE ...]: only records whose fields have these values; of one field any of them
normalise = True  # questions as miniglm/typed.py has it, now and whenever the model is asked; never for open weights
strict = False  # stop at the first bad record
val_file: FilePath = ""  # FILE.jsonl of records for the validation rows
val_fraction: Annotated[float, Bounds(0, 0.5)] = 0.02  # without it: share of samples that are validated on, not trained
seed = 1337  # which samples go to the validation rows
# -----------------------------------------------------------------------------


def prepare(record, encoder, row_length, too_long, normalisation, searches) -> Prepared:
    """A record as the model reads it, at most row_length ids. Raises BadRecord, and UserError as the tokenizer does.

    searches: the assistant may call the search tool in any record.
    """
    form, turns, changes = turns_of(record)
    as_written, turns = turns, normalised(turns, normalisation)
    if turns != as_written:
        changes.append("had its questions normalised")
    if not all(turn["content"] for turn in turns):
        raise BadRecord("has a question of nothing that can be seen")
    ids, mask = encode_conversation(encoder, turns, searches)
    if len(ids) > row_length:
        if too_long == "drop":
            raise BadRecord("is longer than the block")
        cut = without_end if too_long == "truncate" else without_front
        ids, mask, change = cut(turns, encoder, row_length)
        changes.append(change)
    return Prepared(form, [(ids, mask)], changes)


def without_end(turns: list[Turn], encoder, row_length) -> tuple[list[int], list[int], str]:
    """(ids, mask, what was changed) of a conversation without its end. Raises BadRecord where no answer is left."""
    ids, mask = encode_conversation(encoder, turns)
    if not any(mask[:row_length]):
        raise BadRecord("is longer than the block before its answer begins")
    return ids[:row_length], mask[:row_length], "had its end cut off to fit the block"


def without_front(turns: list[Turn], encoder, row_length) -> tuple[list[int], list[int], str]:
    """(ids, mask, what was changed) of a conversation without its front.

    Left out are as many earlier exchanges as need be, then what the system says; where the last exchange alone is too
    long, the front of its ids.
    """
    system = [turn for turn in turns if turn["role"] == "system"]
    asked = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
    ids, mask = encode_conversation(encoder, turns[asked[-1] :])
    for place in reversed(asked):
        more = encode_conversation(encoder, system + turns[place:])
        if len(more[0]) > row_length:
            break
        ids, mask = more
    if len(ids) > row_length:
        return ids[-row_length:], mask[-row_length:], "had its front cut off to fit the block"
    return ids, mask, "had its earlier turns left out to fit the block"


configure(globals(), positional="files")
refuse(not files, "no records to read", "name one FILE.jsonl or more")
refuse(not is_plain_name(dataset), f"--dataset={dataset} is no name", "give --dataset=NAME; the rows go to data/NAME")
encoder = load_tokenizer(tokenizer_from)
normalisation = normalisation_for(files, tokenizer_from) if normalise else None
target = Path("data", dataset)
claim(target)
row_length = block_size + 1  # the first id of a row is only read, the last one only predicted
sources = Sources(files, [val_file] if val_file else [], val_fraction, seed, conditions(where), strict)
searches = any_searches(sources.all)
how = {"encoder": encoder, "row_length": row_length, "too_long": too_long, "normalisation": normalisation}
read = partial(prepare, **how, searches=searches)
about = {"searches": searches, "normalisation": normalisation and normalisation.to_json()}
write_rows(target, "talks", read, sources, encoder, row_length, pack, about)
