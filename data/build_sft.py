"""Questions about a book whose answers can be checked: writes questions.jsonl, val.jsonl and eval.jsonl to data/NAME_sft.

And of the people in it people.jsonl, a table, and talks.jsonl, in which the assistant looks them up there.

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
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import configure
from miniglm.book.facts import TITLES, absent_facts, book_facts, elsewhere_facts, read_book, read_list
from miniglm.book.wordings import LEADS, LOOKED_UP, MORE_WORDINGS, NEW_WORDINGS, TRAINED_WORDINGS, phrasings
from miniglm.errors import refuse
from miniglm.files import claim, is_plain_name, write_whole
from miniglm.search import search

# -----------------------------------------------------------------------------
dataset = ""  # write to data/DATASET instead of data/NAME_sft
names = ["sanguo"]  # the book, given without --; it has headings such as 第一回 or 第12章
entities = ""  # the list of people; the default is data/NAME/entities.json where there is one
title = ""  # how the questions call the book, as in 《三国演义》里; the default is known for the four novels
backend = "book"  # where answers come from; book: computed from the book, llm: from a language model that quotes it
min_mentions = 1  # people named less often are left out
max_pairs = 120  # facts about two people, the best known; at most 30 % of all facts in any case
wordings = 2  # questions trained for each fact, each in other words; more for some kinds, see MORE_WORDINGS
absent_share = 0.4  # so many more questions, about people and chapters that the book does not have
unseen_share = 0.03  # people, pairs and chapters that no trained question is about, to see what is said of them
validation = "reworded"  # val.jsonl holds reworded: trained facts in other words, or unseen: facts that are not trained
eval_questions = 400  # of each group in eval.jsonl
seed = 1337  # which facts and wordings fall where
# of --backend=llm, which of the above heeds title, unseen_share, eval_questions and seed
base_url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")  # an address in OpenAI's protocol
model = os.environ.get("OPENAI_MODEL", "")  # its name there
api_key = os.environ.get(
    "OPENAI_API_KEY", ""
)  # better in the environment than on the command line, where others see it
questions = 900  # asked at most
main_people = 40  # the most named, who are asked about
passages = 3  # pieces of the book shown with each question
workers = 4  # requests under way at once
max_requests = 300  # sent at most, those that are tried again counted too; five questions go in one
retries = 4  # times a request is tried again, with back-off
timeout = 120.0  # seconds without a byte after which a request has failed
# -----------------------------------------------------------------------------


def record(question, answer, kind, **more):
    """A line of a file."""
    return {"Question": question, "Answer": answer, **more, "Kind": kind}


def asked(fact, templates, leads=("",)):
    """The questions about a fact that the templates of its kind give."""
    return phrasings(fact, templates[fact["kind"]], leads, places, unit, rng)


def from_book():
    """{file: its records} about all facts, and about what the book does not have."""
    subjects = list(dict.fromkeys(fact["about"] for fact in facts if fact["kind"] != "chief"))
    held_out = set(rng.sample(subjects, round(unseen_share * len(subjects))))
    training, reworded, evaluation = [], [], defaultdict(list)
    for fact in facts:
        usual, new = asked(fact, TRAINED_WORDINGS, LEADS), asked(fact, NEW_WORDINGS)
        answer, kind = fact["Answer"], fact["kind"]
        if fact["about"] in held_out:
            by_group = {"unseen": usual[0]}
        else:
            trained = usual[: wordings * MORE_WORDINGS.get(kind, 1)]
            training += [record(question, answer, kind) for question in trained]
            by_group = {"seen": trained[0], "new_wording": new[0]}
            if untrained := usual[len(trained) :]:
                by_group["reworded"] = untrained[0]
                reworded += [record(question, answer, kind) for question in untrained[1:2]]
        for group, question in by_group.items():
            evaluation[group].append(record(question, answer, kind, Key=fact["Key"], Group=group))

    absent = absent_facts(chapters, people, rng)
    wanted = round(absent_share * len(training))
    for records, found in ((training, islice(absent, wanted)), (reworded, islice(absent, wanted // 20))):
        records += [record(asked(fact, TRAINED_WORDINGS, LEADS)[0], fact["Answer"], "absent") for fact in found]
    if absent_share:
        for fact in (*elsewhere_facts(chapters, rng), *islice(absent, eval_questions // 2)):
            question = asked(fact, TRAINED_WORDINGS, LEADS)[0]
            evaluation["absent"].append(record(question, fact["Answer"], "absent", Key=fact["Key"], Group="absent"))
    counts = Counter(fact["kind"] for fact in facts)
    print(f"{len(facts):,} facts: " + ", ".join(f"{kind} {count}" for kind, count in counts.most_common()))
    validated = reworded if validation == "reworded" else evaluation["unseen"]
    refuse(
        not validated and validation != "reworded",
        "nothing is left unseen",
        "give --unseen_share more, or --validation=reworded",
    )
    table = people_table()
    known = [row for row in table if row["姓名"] not in held_out]
    strangers = (fact for fact in absent if fact["kind"] in ("who", "courtesy", "first"))
    return {
        "questions": rng.sample(training, len(training)),
        "val": some(validated),
        "eval": [each for group in evaluation.values() for each in some(group)],
        "people": table,
        "talks": list(talks(table, known, islice(strangers, len(known) // 2))) if people else [],
    }


def some(records):
    """At most eval_questions of the records, in random order."""
    return rng.sample(records, min(len(records), eval_questions))


def people_table():
    """[{"姓名", "字", "首见"}] of the people in the facts, with what the book tells of each."""
    table = {}
    for fact in facts:
        if fact["kind"] in ("courtesy", "first"):
            column = {"courtesy": "字", "first": "首见"}[fact["kind"]]
            table.setdefault(fact["about"], {"姓名": fact["about"]})[column] = fact["Key"]
    return list(table.values())


def talks(table, known, absent):
    """Conversations in which the assistant looks up people of `known` in the table, and some who are not in it."""
    for row in known:
        for kind, (column, answer) in LOOKED_UP.items():
            call = {column: row.get(column)}
            if search(table, json.dumps(call)) == [row] and all(
                field in row for field in re.findall("{(.+?)}", answer)
            ):
                question = asked({"kind": kind, "x": [row[column]]}, TRAINED_WORDINGS, LEADS)[0]
                yield talk(question, call, [row], answer.format(**row))
    for fact in absent:
        yield talk(asked(fact, TRAINED_WORDINGS, LEADS)[0], {"姓名": fact["about"]}, [], fact["Answer"])


def talk(question, call, found, answer):
    """A conversation with one search."""
    turns = [
        ("user", "content", question),
        ("search", "arguments", call),
        ("return", "records", found),
        ("assistant", "content", answer),
    ]
    return {"messages": [{"role": role, field: value} for role, field, value in turns]}


def from_llm():
    """{file: its records} of what a language model answered and the book bears out."""
    from miniglm.book.llm import QUOTED, Server, ask, seed_questions

    refuse(not model, "no model is named", "give --model=NAME or set OPENAI_MODEL")
    text = "\n".join(text for _, _, text in chapters)
    known = sorted(people, key=lambda name: -text.count(name))[:main_people]
    together = [(fact["x"][0], fact["y"]) for fact in facts if fact["kind"] == "pair"]
    episodes = [line for _, heading, _ in chapters for line in heading]
    filled = seed_questions(f"《{title}》" if title else "这部书", known, together, episodes, rng)[:questions]
    server = Server(base_url, model, api_key, target / "llm_cache.jsonl", retries, max_requests, timeout)
    answers, left_out = ask(server, filled, chapters, passages, workers)
    print(
        f"{len(answers):,} of {len(filled):,} questions answered; {server.sent} requests, {server.cached} from the cache"
    )
    for reason, count in left_out.most_common():
        print(f"left out: {count:,} that {reason}")
    refuse(not answers, "no answer can be used", "see above why; ask another --model, or allow more --max_requests")
    records = [record(question, answer, "llm") for question, answer in answers.items()]
    held_out = rng.sample(records, round(unseen_share * len(records)))
    training = [each for each in records if each not in held_out]
    evaluation = [
        each | {"Key": QUOTED.findall(each["Answer"]), "Group": group}
        for group, members in (("seen", training), ("unseen", held_out))
        for each in some(members)
    ]
    return {"questions": training, "val": some(held_out or training), "eval": evaluation}


configure(
    globals(),
    positional="names",
    limits={
        "min_mentions": (1, None), "max_pairs": (0, None), "wordings": (1, 6), "unseen_share": (0, 0.5), "absent_share": (0, 0.5),
        "eval_questions": (1, None), "questions": (1, None), "main_people": (0, None), "passages": (0, 20), "workers": (1, 64),
        "max_requests": (1, None), "retries": (0, 20), "timeout": (0.1, 86400),
    },
    choices={"backend": ("book", "llm"), "validation": ("reworded", "unseen")},
)  # fmt: skip
refuse(len(names) != 1, "one book at a time", "name one")
name = names[0]
for each in (name, dataset or name):
    refuse(not is_plain_name(each), f"'{each}' is no name", "give the name of a folder in data/")
target = Path("data", dataset or f"{name}_sft")
claim(target)
title = title or TITLES.get(name, "")
rng = random.Random(seed)
chapters = read_book(Path("data", name, "input.txt"))
unit = chapters[0][0][-1]  # 回, 章 or 节
places = ["", "书中", f"《{title}》里"] if title else ["", "书中"]
entities = entities or (f"data/{name}/entities.json" if Path("data", name, "entities.json").exists() else "")
facts, people = book_facts(chapters, read_list(entities) if entities else {}, min_mentions, max_pairs)
if not people:
    print("nobody to ask about: questions about the chapters alone (--entities=FILE gives a list of people)")
if backend == "book":
    refuse(
        not facts,
        f"{name} gives nothing to ask about",
        "give its chapters titles, or a list of people as --entities=FILE",
    )
for file, records in (from_book() if backend == "book" else from_llm()).items():
    with write_whole(target / f"{file}.jsonl") as out:
        out.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in records)
    print(f"{target / file}.jsonl: {len(records):,} records")
