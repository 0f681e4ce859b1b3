"""Ask about a book what can be checked: writes questions.jsonl, val.jsonl and eval.jsonl to data/NAME_sft.

    python data/build_sft.py sanguo                             # people from data/sanguo/entities.json
    python data/build_sft.py mybook --entities=mypeople.json    # {"name": ["name", "other name", …], …}
    python data/build_sft.py sanguo --backend=llm --base_url=http://localhost:8080/v1 --model=MODEL    # OPENAI_API_KEY

With --backend=book every fact is read off the book; the list of people only says which words are names. A fact is kept
where the book itself bears it out. Without a list there are questions about the chapters alone. Beside the facts stand
questions about what the book does not have. With --backend=llm a language model answers questions that are filled from
seeds; it is shown what the book says and must quote it, and what is not in the book is dropped.
"""

import json
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import Bounds, FilePath, Natural, Positive, configure
from miniglm.book import judged
from miniglm.book.absence import Absence
from miniglm.book.episodes import EPISODES
from miniglm.book.facts import book_facts
from miniglm.book.indexing import passages_of
from miniglm.book.known import KNOWN, read_about
from miniglm.book.passages import Forms
from miniglm.book.people import find_people, left_out, read_list
from miniglm.book.questions import BY_HEART, Book, Shares, bare, book_records, mentioned, question_in, without_denials
from miniglm.book.reader import BookReader
from miniglm.book.sections import chinese_number, describe, read_book, unit_of
from miniglm.book.smalltalk import SmallTalk
from miniglm.book.wordings import Words
from miniglm.errors import refuse
from miniglm.files import claim, is_plain_name, write_whole
from miniglm.metrics import read_questions
from miniglm.typed import script_of

# -----------------------------------------------------------------------------
dataset = ""  # write to data/DATASET instead of data/NAME_sft
names = ["sanguo"]  # the book, given without --
heading = ""  # a regular expression for headings other than 第一回, 第12章, 楔子: --heading='[0-9]+\.'
entities: FilePath = ""  # the list of people; the default is data/NAME/entities.json where there is one
title = ""  # how the questions call the book, as in 《三国演义》里; the default is known for the four novels
backend: Literal["book", "llm"] = "book"  # answers computed from the book, or by a language model that quotes it
min_mentions: Positive = 1  # people named less often are left out
max_pairs: Natural = 120  # facts about two people, the best known; at most 30 % of all facts in any case
wordings: Annotated[int, Bounds(1, 6)] = 2  # questions trained for each fact; more for some kinds, see MORE_WORDINGS
absent_share: Annotated[float, Bounds(0, 0.5)] = 0.3  # so many more, about people and chapters the book does not have
unseen_share: Annotated[float, Bounds(0, 0.5)] = 0.03  # people, pairs and chapters that no trained question is about
validation: Literal["reworded", "unseen"] = "reworded"  # val.jsonl: trained facts in other words, or untrained facts
small_talk: Natural = 2400  # questions about what is beyond the book, and two thirds as many courtesies
lookups: Natural = 1500  # talks in which a sentence of the book is looked for
follow_ups: Natural = 800  # talks of several turns
prompts: Natural = 1000  # questions in prompts.jsonl, which a model is to answer and is judged by
pairs_from: FilePath = ""  # the out_dir of a model that has learnt from this: pairs.jsonl, with what it says wrongly
judged_most: Natural = 1600  # with it: of the prompts half so many that it finds hardest, and as many others
natural: FilePath = ""  # FILE.jsonl of questions that readers ask: in eval.jsonl, as the group natural, and not trained
eval_questions: Positive = 400  # of each group in eval.jsonl
seed = 1337  # which facts and wordings fall where
# of --backend=llm, for which of the above title, unseen_share, eval_questions and seed count, too
base_url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")  # an address in OpenAI's protocol
model = os.environ.get("OPENAI_MODEL", "")  # its name there
api_key = os.environ.get("OPENAI_API_KEY", "")  # better in the environment: others can see a command line
questions: Positive = 900  # asked at most
main_people: Natural = 40  # the most named, who are asked about
passages: Annotated[int, Bounds(0, 20)] = 3  # pieces of the book shown with each question
workers: Annotated[int, Bounds(1, 64)] = 4  # requests under way at once
max_requests: Positive = 300  # sent at most, those that are tried again counted too; five questions go in one
retries: Annotated[int, Bounds(0, 20)] = 4  # times a request is tried again, with back-off
timeout: Annotated[float, Bounds(0.1, 86400)] = 120.0  # seconds without a byte after which a request has failed
# -----------------------------------------------------------------------------


def judged_files(asked, rng):
    """{"prompts", "pairs"}: of all questions those that the model in pairs_from finds hardest, and as many others."""
    from miniglm import origin
    from miniglm.chat import CHAT_TOKENS
    from miniglm.decoding import Sampling
    from miniglm.rewards import judge_of, likelihood_margins
    from miniglm.rollouts import draw

    loaded = origin.load(pairs_from, lookup=True)
    courtesies = [each.record["Answer"] for each in asked if each.record["Kind"] == "greeting"]
    made = [(each, judged.made_pair(book, each, courtesies, rng)) for each in asked]
    talks = [(pair["messages"] + pair["chosen"], pair["messages"] + pair["rejected"]) for _, pair in made]
    margins = likelihood_margins(loaded, talks)
    print(f"{pairs_from} prefers the wrong one of {sum(margin < 0 for margin in margins):,} of {len(made):,} pairs")
    chosen, share = [], min(1.0, judged_most / max(1, len(made)))
    for key in ("known", "absent", "beyond"):  # of each as large a share, or the model would learn which is usual
        of_key = [number for number in range(len(made)) if judged.side_of(book, made[number][0]) == key]
        of_key.sort(key=margins.__getitem__)
        half = int(share * len(of_key) / 2)  # rounded down: as many others must be left
        chosen += [made[number] for number in [*of_key[:half], *rng.sample(of_key[half:], half)]]

    some = [prompt for prompt, _ in chosen]
    records = [each.record for each in some]
    answers = draw(loaded, records, Sampling(temperature=1.0, seed=seed), CHAT_TOKENS)
    pairs, own = [pair for _, pair in chosen], {}
    for prompt, answer, worth in zip(some, answers, judge_of("right=1", loaded.book)(records, answers)):
        if worth < 1 and answer.text and answer.ended:
            said = [*answer.turns[1:], {"role": "assistant", "content": answer.text}]
            own[prompt.record["Question"]] = judged.pair(prompt, said, pairs_from)
    print(f"{pairs_from} answered {len(own):,} of {len(some):,} questions wrongly")
    return {"prompts": rng.sample(records, len(records)), "pairs": pairs + list(own.values())}


configure(globals(), positional="names")
refuse(len(names) != 1, "one book at a time", "name one")
name = names[0]
for each in (name, dataset or name):
    refuse(not is_plain_name(each), f"'{each}' is no name", "give the name of a folder in data/")
refuse(pairs_from and backend == "llm", "--pairs_from asks about the book's own facts", "leave --backend=llm away")
target = Path("data", dataset or f"{name}_sft")
claim(target)

# The book, and what it bears out.
text, sections = read_book(Path("data", name, "input.txt"), heading)
print(describe(sections))
own_about = Path("data", name, "about.json")
about = read_about(own_about) if own_about.exists() else KNOWN.get(name, {})
words = Words(title or about.get("title", ""), unit_of(sections), script_of(Counter(text)))
list_of_people = entities or f"data/{name}/entities.json"
given = entities or Path(list_of_people).exists()
listed = read_list(list_of_people) if given else find_people(text)
believed = bool(entities) or name not in KNOWN  # a list that came with a book is held against it
known = book_facts(sections, listed, min_mentions, max_pairs, words, about, EPISODES.get(name, ""), believed)
facts, people = known.facts, known.people
if given and believed:
    for reason, names_left in left_out(listed, people, text, min_mentions).items():
        print(f"left out of the list: {'、'.join(names_left[:20])}{'…' * (len(names_left) > 20)}: {reason}")
elif people and not given:
    shown = "、".join(list(people)[:20])
    print(f"{len(people)} people, by how the book speaks of them: {shown}; --entities=FILE names others")
absence = Absence(text, sections, people, words)
count = chinese_number(absence.chapters) + words.unit
whole = words.answer("absent chapter", x="", n=count) if absence.chapters else ""
talk = SmallTalk(words, list(people), re.findall(r"\w{3,5}", text)[::20])
forms = Forms(words.answer("absent", x=""), whole, talk.beyond, BY_HEART, mentioned(facts))
reader = BookReader(passages_of(sections, known, forms, absence.full_names))
book = Book(sections, facts, people, absence, words, reader, talk)
if not people:
    print("nobody to ask about: questions about the chapters alone (--entities=FILE gives a list of people)")

# The questions.
rng = random.Random(seed)
if backend == "book":
    todo = "give a list of people as --entities=FILE, or an expression for its headings as --heading=REGEX"
    refuse(not book.reader.passages.sentences, f"{name} gives nothing to ask about", todo)
    kinds = Counter(fact["kind"] for fact in facts)
    print(f"{len(facts):,} facts: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    shares = Shares(
        wordings, absent_share, unseen_share, small_talk, lookups, follow_ups=follow_ups, evaluated=eval_questions
    )
    files, held_out, absent = book_records(book, shares, validation, read_questions(natural) if natural else [], rng)
    avoided = {bare(question_in(each)) for file in ("val", "eval") for each in files[file]}
    asked = judged.prompts(book, held_out, absent, avoided, prompts, rng)
    files |= judged_files(asked, rng) if pairs_from else {"prompts": [each.record for each in asked]}
else:
    from miniglm.book.llm import Server, ask, quoted_records, seed_questions

    refuse(not model, "no model is named", "give --model=NAME or set OPENAI_MODEL")
    asked = seed_questions(book, main_people, rng)[:questions]
    server = Server(base_url, model, api_key, target / "llm_cache.jsonl", retries, max_requests, timeout)
    answers, left_out = ask(server, asked, sections, passages, workers)
    requests = f"{server.sent} requests, {server.cached} from the cache"
    print(f"{len(answers):,} of {len(asked):,} questions answered; {requests}")
    for reason, count in left_out.most_common():
        print(f"left out: {count:,} that {reason}")
    refuse(not answers, "no answer can be used", "see above why; ask another --model, or allow more --max_requests")
    files = quoted_records(answers, unseen_share, eval_questions, rng)

files, denials = without_denials(files, absence)
if denials:
    print(f"left out: {denials:,} answers that deny what the book has")
book.reader.passages.save(target)
for file, records in files.items():
    with write_whole(target / f"{file}.jsonl") as out:
        out.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in records)
    print(f"{target / file}.jsonl: {len(records):,} records")
