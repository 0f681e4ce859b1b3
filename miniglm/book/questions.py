"""Records of questions and answers about a book, made of its facts, and talks in which its people are looked up."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from miniglm.book.absence import Absence
from miniglm.book.sections import Section
from miniglm.book.wordings import ANSWERED, LEADS, LOOKED_UP, MORE_WORDINGS, NEW_WORDINGS, TRAINED_WORDINGS, Words
from miniglm.errors import refuse
from miniglm.search import search


@dataclass(frozen=True)
class Book:
    """A book that questions are asked about, and what is known about it."""

    sections: list[Section]
    facts: list[dict]  # as facts.book_facts gives them
    people: dict[str, list[str]]  # {name: other names}
    absence: Absence
    words: Words

    def ask(self, fact, rng: Random) -> list[str]:
        """All questions about a fact in the words that are trained, in random order."""
        return self.words.questions(fact, TRAINED_WORDINGS, LEADS, rng)

    def ask_anew(self, fact, rng: Random) -> list[str]:
        """All questions about a fact in words that are never trained, in random order."""
        return self.words.questions(fact, NEW_WORDINGS, [""], rng)


def record(question: str, answer: str, kind: str, **more) -> dict:
    """A question with its answer, a line of a file. kind: that of the fact. more: "Key", "Group"."""
    return {"Question": question, "Answer": answer, **more, "Kind": kind}


def at_most(count: int, records: list, rng: Random) -> list:
    """`count` of the records, or all where there are fewer, in random order."""
    return rng.sample(records, min(len(records), count))


def book_records(
    book: Book,
    wordings: int,
    absent_share: float,
    unseen_share: float,
    validation: str,
    eval_questions: int,
    rng: Random,
) -> dict[str, list[dict]]:
    """{file: its records} about all facts of a book, and about people and chapters that it does not have.

    "questions" are to be trained: each fact in `wordings` different ways, and absent_share as many again about what is
    absent. "val" holds trained facts in other words, or, where `validation` is "unseen", facts that are not trained.
    "eval" has at most eval_questions of each group. "people" is a table of the people, "talks" are conversations in
    which it is searched. unseen_share: of the people, pairs and chapters, of which "questions" and "talks" say nothing.
    Raises UserError where `validation` is "unseen" and nothing is left unseen.
    """
    subjects = list(dict.fromkeys(fact["about"] for fact in book.facts if fact["kind"] != "chief"))
    held_out = set(rng.sample(subjects, round(unseen_share * len(subjects))))
    training, reworded, evaluation = fact_records(book, held_out, wordings, rng)
    absent = book.absence.facts(rng)
    wanted = round(absent_share * len(training))
    training += absent_records(book, islice(absent, wanted), rng)
    reworded += absent_records(book, islice(absent, wanted // 20), rng)
    if absent_share:
        unheard_of = [*book.absence.elsewhere(rng), *islice(absent, eval_questions // 2)]
        evaluation["absent"] = absent_records(book, unheard_of, rng, evaluated=True)
    if validation == "unseen":
        unseen = evaluation.get("unseen", [])
        refuse(not unseen, "nothing is left unseen", "give --unseen_share more, or --validation=reworded")
    table = people_table(book.facts)
    known = [row for row in table if row["姓名"] not in held_out]
    strangers = (fact for fact in absent if fact["kind"] in ("who", "courtesy", "first"))
    return {
        "questions": rng.sample(training, len(training)),
        "val": at_most(eval_questions, evaluation["unseen"] if validation == "unseen" else reworded, rng),
        "eval": [each for group in evaluation.values() for each in at_most(eval_questions, group, rng)],
        "people": table,
        "talks": list(talks(book, table, known, islice(strangers, len(known) // 2), rng)) if book.people else [],
    }


def without_denials(files: dict[str, list[dict]], absence: Absence) -> tuple[dict[str, list[dict]], int]:
    """({file: its records} without those whose answer denies what the book has, how many those are)."""
    kept = {file: [each for each in records if not absence.denies(answer_of(each))] for file, records in files.items()}
    return kept, sum(map(len, files.values())) - sum(map(len, kept.values()))


def answer_of(record: dict) -> str:
    """What a record answers last; "" where it is no question."""
    return record["messages"][-1]["content"] if "messages" in record else record.get("Answer", "")


def fact_records(book: Book, held_out: set, wordings: int, rng: Random):
    """(records to be trained, the same facts in other words, {group: records to evaluate}), of all facts of a book.

    No record of the first two is about one of `held_out`. Each trained fact has `wordings` questions, some kinds more.
    """
    training, reworded, evaluation = [], [], defaultdict(list)
    for fact in book.facts:
        usual, new = book.ask(fact, rng), book.ask_anew(fact, rng)
        answer, kind = fact["Answer"], fact["kind"]
        if fact["about"] in held_out:
            by_group = {"unseen": usual[0]}
        else:
            count = wordings * MORE_WORDINGS.get(kind, 1)
            trained = list(dict.fromkeys(book.words.as_typed(question, rng) for question in usual[:count]))
            training += [record(question, answer, kind) for question in trained]
            by_group = {"seen": trained[0], "new_wording": new[0], "typed": book.words.typed_anew(usual[0], rng)}
            if untrained := usual[count:]:
                by_group["reworded"] = untrained[0]
                reworded += [record(question, answer, kind) for question in untrained[1:2]]
        for group, question in by_group.items():
            evaluation[group].append(record(question, answer, kind, Key=fact["Key"], Group=group))
    return training, reworded, evaluation


def absent_records(book: Book, facts: Iterable[dict], rng: Random, evaluated=False) -> list[dict]:
    """A record of each fact about what the book does not have. evaluated: with its "Key" and its "Group"."""
    records = []
    for fact in facts:
        question, more = book.ask(fact, rng)[0], {"Key": fact["Key"], "Group": "absent"}
        if not evaluated:
            question, more = book.words.as_typed(question, rng), {}
        records.append(record(question, fact["Answer"], "absent", **more))
    return records


def people_table(facts: list[dict]) -> list[dict]:
    """[{"姓名", "字", "首见"}] of the people in the facts: name, courtesy name, first chapter, where they are known."""
    table = {}
    for fact in facts:
        if fact["kind"] in ("courtesy", "first"):
            row = table.setdefault(fact["about"], {"姓名": fact["about"]})
            row[ANSWERED[fact["kind"]]] = fact["Key"]
    return list(table.values())


def talks(book: Book, table: list, known: list, absent: Iterable[dict], rng: Random) -> Iterator[dict]:
    """Conversations in which the assistant searches a table of people, as people_table gives it, before it answers.

    They are about the rows `known`, where a search finds only that row, and about the people of the facts `absent`, who
    are not in the table.
    """
    for row in known:
        filled = {"x": row["姓名"], "zi": row.get("字"), "names": row["姓名"], "place": row.get("首见")}
        for kind, column in LOOKED_UP.items():
            call = {column: row.get(column)}
            if row.get(ANSWERED[kind]) and search(table, json.dumps(call)) == [row]:
                question = book.ask({"kind": kind, "x": [row[column]]}, rng)[0]
                answer = book.words.answer(kind, **filled | {"x": row[column]})
                yield talk(question, call, [row], answer)
    for fact in absent:
        yield talk(book.ask(fact, rng)[0], {"姓名": fact["about"]}, [], fact["Answer"])


def talk(question: str, call: dict, found: list, answer: str) -> dict:
    """A conversation with one search: {"messages": [question, call, what it found, answer]}."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "search", "arguments": call},
            {"role": "return", "records": found},
            {"role": "assistant", "content": answer},
        ]
    }
