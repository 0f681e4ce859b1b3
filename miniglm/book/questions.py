"""Records of questions and answers about a book, made of its facts, and talks in which the book is looked into."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from pypinyin import lazy_pinyin

from miniglm.book.absence import Absence
from miniglm.book.lookups import Inventor, asked_words, lookup, open_lookups, sayable, telling
from miniglm.book.passages import WELL_KNOWN, sound
from miniglm.book.reader import BookReader, read
from miniglm.book.sections import Section
from miniglm.book.smalltalk import SmallTalk
from miniglm.book.wordings import LEADS, MORE_WORDINGS, NEW_WORDINGS, TRAINED_WORDINGS, Words
from miniglm.errors import refuse

BY_HEART = 30  # people, the best known, whose facts are learnt by heart; of the others the book is asked
HEART = "who courtesy whose alias called first chief most author length"  # kinds that are
TALKS = {"title": 4, "episode": 6}  # talks for each fact of a kind that is looked up; of others one
LOOKED_UP_MOST = 240  # talks trained for each kind of fact that is looked up
TOLD = "slain slew death sons father brothers wife husband kin native office arms bearer look"  # of relations.py
UNTOLD = 0.2  # talks in which the book does not tell such a thing of somebody, as a share of those in which it does
OFTEN = 12  # questions trained for each fact about somebody whose facts are learnt by heart


def mentioned(facts: Iterable[dict]) -> list[str]:
    """The people among the best known of whom the book says no more than a mention: who they are is looked up."""
    told = [fact for fact in facts if fact["kind"] == "who" and fact["fame"] < BY_HEART]
    return list(dict.fromkeys(fact["about"] for fact in told if not fact.get("by_heart", True)))


@dataclass(frozen=True)
class Book:
    """A book that questions are asked about, and what is known about it."""

    sections: list[Section]
    facts: list[dict]  # as facts.book_facts gives them
    people: dict[str, list[str]]  # {name: other names}, the best known first
    absence: Absence
    words: Words
    reader: BookReader
    talk: SmallTalk

    def ask(self, fact, rng: Random) -> list[str]:
        """All questions about a fact in the words that are trained, in random order."""
        return self.words.questions(fact, TRAINED_WORDINGS, LEADS, rng)

    def ask_anew(self, fact, rng: Random) -> list[str]:
        """All questions about a fact in words that are never trained, in random order."""
        return self.words.questions(fact, NEW_WORDINGS, [""], rng)

    def is_by_heart(self, fact) -> bool:
        """Whether a fact is learnt by heart."""
        known = fact["about"] not in self.people or fact["fame"] < BY_HEART
        return known and fact["kind"] in HEART.split() and fact.get("by_heart", True)

    def told(self, fact, question: str) -> dict | None:
        """The record that answers a question about a fact: by heart, or by looking it up; None where that fails."""
        if self.is_by_heart(fact):
            return record(question, fact["Answer"], fact["kind"])
        return self.look_up(question, fact)

    def look_up(self, question: str, fact) -> dict | None:
        """The talk in which a question about a fact is looked up, with the Key of its answer.

        None where the search does not find what tells it.
        """
        subjects = [x for x in (*fact["x"], fact.get("y")) if x and x in question]
        call = asked_words(question, subjects)
        found = self.reader.places(call, question)
        if fact["kind"] == "absent" or self.words.absent in fact["Answer"]:
            sure = not found and sayable(self.reader, question, call)
            return lookup(question, call, [], fact["Answer"], "absent") if sure else None
        if not sayable(self.reader, question, call):
            return None
        keys = [fact["Key"], fact.get("look_key"), fact.get("quote")]
        if fact["kind"] in TOLD.split():
            keys.reverse()  # 父亲 may stand in another sentence than the one that tells it
        for key in filter(None, keys):
            if place := telling(found, key if isinstance(key, list) else [key]):
                return lookup(question, call, found, place.answer, fact["kind"]) | {"Key": key}
        for place in read(found):  # another sentence that tells it
            tells = self.reader.passages.sentences[place.number].tells
            if any(kind == fact["kind"] and subject in (fact["about"], *fact["x"]) for kind, subject, _ in tells):
                return lookup(question, call, found, place.answer, fact["kind"]) | {"Key": place.quote}
        return None


def record(question: str, answer: str, kind: str, **more) -> dict:
    """A question with its answer, a line of a file. kind: that of the fact. more: "Key", "Group"."""
    return {"Question": question, "Answer": answer, **more, "Kind": kind}


def at_most(count: int, records: list, rng: Random) -> list:
    """`count` of the records, or all where there are fewer, in random order."""
    return rng.sample(records, min(len(records), count))


@dataclass(frozen=True)
class Shares:
    """How much of each kind of record is made."""

    wordings: int = 2  # questions for each fact that is learnt by heart; more for some, see OFTEN and MORE_WORDINGS
    absent: float = 0.4  # about what the book does not have, as a share of the questions about facts
    unseen: float = 0.03  # of the people, pairs and chapters, of which nothing is trained
    small_talk: int = 1500  # about what is beyond the book, and two thirds as many courtesies
    lookups: int = 1500  # about sentences of the book
    slips: int = 250  # about well-known people whose names are mistyped
    follow_ups: int = 800  # talks of several turns about one person, and as many that change the subject
    evaluated: int = 400  # of each group in eval.jsonl


def book_records(
    book: Book, shares: Shares, validation: str, natural: list[dict], rng: Random
) -> tuple[dict[str, list[dict]], set[str], Iterator[dict]]:
    """({file: its records}, who was held out, more facts about what the book does not have).

    The records are about all facts of a book, about what it does not have, and what is said beside.

    "questions" are to be trained. "val" holds trained facts in other words, or, where `validation` is "unseen", facts
    that are not trained. "eval" has at most shares.evaluated of each group, and all of `natural`, questions of readers,
    none of which is trained.
    Raises UserError where `validation` is "unseen" and nothing is left unseen.
    """
    famous = set(list(book.people)[:WELL_KNOWN])  # who is asked for most is not left out
    subjects = (fact["about"] for fact in book.facts if fact["about"] and fact["kind"] != "episode")
    subjects = [subject for subject in dict.fromkeys(subjects) if subject not in famous]
    held_out = set(rng.sample(subjects, round(shares.unseen * len(subjects))))
    training, reworded, groups = fact_records(book, held_out, shares.wordings, rng)
    evaluation = {
        group: [asked_about(book, group, *asked) for asked in at_most(shares.evaluated, groups[group], rng)]
        for group in ("seen", "reworded", "new_wording", "typed", "unseen")
    }
    reworded = [each for asked in at_most(shares.evaluated, reworded, rng) if (each := book.told(*asked))]
    absent = book.absence.facts(rng)
    wanted = round(shares.absent * len(training))
    training += absent_records(book, islice(absent, wanted), rng)
    reworded += absent_records(book, islice(absent, wanted // 20), rng)
    if shares.absent:
        unheard_of = [*book.absence.elsewhere(rng), *islice(absent, shares.evaluated // 2)]
        evaluation["absent"] = absent_records(book, unheard_of, rng, evaluated=True)
    if shares.small_talk:
        for kind, drawn in (("greeting", book.talk.courtesies(rng)), ("beyond", book.talk.beyonds(rng))):
            said = {typed: (answer, held) for typed, answer, held in islice(drawn, 4 * shares.small_talk)}
            trained = [record(typed, answer, kind) for typed, (answer, held) in said.items() if not held]
            count = shares.small_talk if kind == "beyond" else 2 * shares.small_talk // 3
            training += [looked_into(book, each) for each in at_most(count, trained, rng)]
            evaluation[kind] = [
                record(typed, answer, kind, Key="", Group=kind) for typed, (answer, held) in said.items() if held
            ]
    if shares.lookups:
        inventor = Inventor(list(book.people), book.absence, book.reader.passages)
        training += list(islice(open_lookups(book.reader, inventor, book.words, rng), shares.lookups))
        training += told_lookups(book, held_out, inventor, rng)
        training += list(islice(slips(book, held_out, rng), shares.slips))
    if shares.follow_ups and book.people:
        training += list(islice(follow_ups(book, held_out, rng), shares.follow_ups))
        training += list(islice(changes(training, training, rng), shares.follow_ups))
    if validation == "unseen":
        refuse(not evaluation["unseen"], "nothing is left unseen", "give --unseen_share more, or --validation=reworded")
    asked = {bare(each["Question"]) for each in natural}
    training = [each for each in training if bare(question_in(each)) not in asked]
    trained = {question_in(each) for each in training}
    reworded = [each for each in reworded if question_in(each) not in trained]
    for group in evaluation.keys() - {"seen"}:
        evaluation[group] = [each for each in evaluation[group] if each["Question"] not in trained]
    told = {(each["Kind"], answer_of(each)) for each in training}  # of two in one sentence the other may be trained
    evaluation["unseen"] = [each for each in evaluation["unseen"] if (each["Kind"], each["Answer"]) not in told]
    if shares.follow_ups and book.people:
        evaluation["later"] = list(islice(changes(training, evaluation["reworded"], rng), shares.evaluated))
    evaluated = [each for group in evaluation.values() for each in at_most(shares.evaluated, group, rng)]
    natural = [{**each, "Kind": each.get("Group", ""), "Group": "natural"} for each in natural]
    files = {
        "questions": rng.sample(training, len(training)),
        "val": at_most(shares.evaluated, evaluation["unseen"] if validation == "unseen" else reworded, rng),
        "eval": evaluated + natural,
    }
    return files, held_out, absent


def question_in(each: dict) -> str:
    """The first question of a record or a talk."""
    return each["Question"] if "Question" in each else each["messages"][0]["content"]


def bare(question: str) -> str:
    """A question without its marks."""
    return re.sub(r"\W", "", question)


def without_denials(files: dict[str, list[dict]], absence: Absence) -> tuple[dict[str, list[dict]], int]:
    """({file: its records} without those whose answer denies what the book has, how many those are)."""
    kept = {file: [each for each in records if not absence.denies(answer_of(each))] for file, records in files.items()}
    return kept, sum(map(len, files.values())) - sum(map(len, kept.values()))


def answer_of(record: dict) -> str:
    """What a record answers last; "" where it is no question."""
    return record["messages"][-1]["content"] if "messages" in record else record.get("Answer", "")


def fact_records(book: Book, held_out: set, wordings: int, rng: Random):
    """(records to be trained, the same facts in other words, {group: what is asked in it}), of all facts of a book.

    No record of the first two is about one of `held_out`. Each fact that is learnt by heart has `wordings` questions,
    or more; of the others LOOKED_UP_MOST of a kind have one talk or some, in which the book is looked into. What is
    asked is (fact, question).
    """
    training, reworded, groups, looked_up = [], [], defaultdict(list), Counter()
    for fact in rng.sample(book.facts, len(book.facts)):
        usual, new = book.ask(fact, rng), book.ask_anew(fact, rng)
        kind, by_heart = fact["kind"], book.is_by_heart(fact)
        if not usual or not new:
            continue
        enough = not by_heart and kind not in TOLD.split() and looked_up[kind] >= LOOKED_UP_MOST
        if fact["about"] in held_out or enough:
            groups["unseen"].append((fact, usual[0]))
            continue
        often = OFTEN if fact.get("fame", BY_HEART) < BY_HEART else wordings * MORE_WORDINGS.get(kind, 1)
        count = often if by_heart else TALKS.get(kind, 1)
        trained = [book.told(fact, book.words.as_typed(question, rng)) for question in usual[:count]]
        trained = {question_in(each): each for each in trained if each}
        if not trained:
            continue  # the search does not find it
        looked_up[kind] += not by_heart
        training += trained.values()
        groups["seen"].append((fact, next(iter(trained))))
        groups["new_wording"].append((fact, new[0]))
        groups["typed"].append((fact, book.words.typed_anew(usual[0], rng), usual[0]))
        if untrained := usual[count:]:
            groups["reworded"].append((fact, untrained[0]))
            reworded += [(fact, question) for question in untrained[1:2]]
    return training, reworded, groups


def asked_about(book: Book, group: str, fact: dict, question: str, right: str = "") -> dict:
    """A record to evaluate: a question about a fact. Its Key is what the place says that the book is asked for.

    right: the question as it is typed right.
    """
    looked_up = None if book.is_by_heart(fact) and group != "unseen" else book.look_up(right or question, fact)
    answer, key = (answer_of(looked_up), looked_up["Key"]) if looked_up else (fact["Answer"], fact["Key"])
    return record(question, answer, fact["kind"], Key=key, Group=group)


def slips(book: Book, held_out: set, rng: Random) -> Iterator[dict]:
    """Talks about well-known people whose name is mistyped as it sounds, or typed in Latin letters."""
    alike = defaultdict(set)
    for character in set(book.absence.characters):
        alike[sound(character)].add(character)
    facts = [
        fact
        for fact in book.facts
        if fact["about"] in book.people and fact["about"] not in held_out and fact["fame"] < WELL_KNOWN
        if fact["kind"] in ("who", "courtesy", "first", "arms", "sons", "father", "death", "slain", "look", "native")
    ]
    for _ in range(1000 if facts else 0):
        fact = rng.choice(facts)
        name = fact["about"]
        if rng.random() < 0.3:
            slip = sound(name)
        else:
            place = rng.randrange(len(name))
            slip = name[:place] + rng.choice(sorted(alike[sound(name[place])])) + name[place + 1 :]
        if slip == name or book.reader.passages.person(slip) != name:
            continue
        question = book.words.as_typed(rng.choice(book.ask({**fact, "x": [slip]}, rng)), rng)
        if slip.isascii() and rng.random() < 0.5:
            question = " ".join(lazy_pinyin(question))
            if slip not in question.replace(" ", ""):
                continue
            question = question.replace(" ".join(lazy_pinyin(name)), slip)
        if told := book.look_up(question, {**fact, "x": [slip]}):
            yield told | {"Kind": "slip"}


def looked_into(book: Book, each: dict) -> dict:
    """A record about what is beyond the book; where it names somebody, as a talk in which the book is looked into."""
    question, answer = each["Question"], each["Answer"]
    named = book.reader.passages.names.findall(question)
    if each["Kind"] != "beyond" or not named:
        return each
    call = asked_words(question, named)
    if not sayable(book.reader, question, call):
        return each
    return lookup(question, call, book.reader.places(call, question), answer, "beyond")


def told_lookups(book: Book, held_out: set, inventor: Inventor, rng: Random) -> list[dict]:
    """Talks about what the book tells of people in passing, in many wordings.

    They are also about invented people, and about those of whom it does not tell such a thing.
    """
    by_kind = defaultdict(list)
    for fact in book.facts:
        if fact["kind"] in TOLD.split() and not {fact["about"], *fact["about"].split("、")} & held_out:
            by_kind[fact["kind"]].append(fact)
    talks = []
    for kind, facts in by_kind.items():
        known = {fact["about"] for fact in facts}
        others = [person for person in list(book.people)[: 2 * WELL_KNOWN] if person not in known]
        for _ in range(LOOKED_UP_MOST):
            fact = rng.choice(facts)
            told = book.look_up(book.words.as_typed(rng.choice(book.ask(fact, rng)), rng), fact)
            names = [name for name in book.people.get(fact["about"], ()) if len(name) > 1]
            if told and names and rng.random() < 0.5:
                told = inventor.renamed(told, names, rng)
            talks += [told] if told else []
            if others and kind != "bearer" and rng.random() < UNTOLD:
                about = {**fact, "about": "", "x": [rng.choice(others)]}
                question = book.words.as_typed(rng.choice(book.ask(about, rng)), rng)
                call = asked_words(question, [x for x in (*about["x"], fact.get("y")) if x and x in question])
                if sayable(book.reader, question, call) and not book.reader.passages.telling(call):
                    found = book.reader.places(call, question)
                    talks.append(lookup(question, call, found, book.talk.beyond, "untold"))
    return talks


def absent_records(book: Book, facts: Iterable[dict], rng: Random, evaluated=False) -> list[dict]:
    """A record of each fact about what the book does not have. evaluated: with its "Key" and its "Group"."""
    records = []
    for fact in facts:
        question, more = book.ask(fact, rng)[0], {"Key": fact["Key"], "Group": "absent"}
        if evaluated:
            records.append(record(question, fact["Answer"], "absent", **more))
        elif told := book.look_up(book.words.as_typed(question, rng), fact):
            records.append(told)
    return records


PRONOUNS = "他 他 他 她 这个人 此人 那个人 这人 那人 这位"
SAME, SAME_OF_ANOTHER = "{x}呢？ 那{x}呢？ {x}呢 那{x}呢 那么{x}呢？ 还有{x}呢？", 0.25
THANKS = 0.25  # of the talks that change the subject end with a courtesy, or with what is beyond the book
LONGEST_TALK = 450  # characters, so that it fits the demo's block
LINKS = "那 那么 那 那 还有 另外 再问， 接着问， 好的， 谢谢，那 嗯，"


def changes(before: list[dict], then: list[dict], rng: Random) -> Iterator[dict]:
    """Talks that change the subject: one exchange or two of `before`, then another record, all by chance.

    Those before are answered by heart, as a reader sees them: where the book was looked into is not shown again.
    """
    small = [each for each in before if each.get("Kind") in ("greeting", "beyond") and "messages" not in each]
    others = [each for each in before if each.get("Kind") not in ("greeting", "beyond") and "messages" not in each]
    while small and others and then:
        earlier = [rng.choice(rng.choice([small, others])) for _ in range(rng.choice([1, 1, 2]))]
        last = rng.choice(small if "Group" not in then[0] and rng.random() < THANKS else then)
        messages = sum(map(messages_in, [*earlier, last]), [])
        if sum(len(message["content"]) for message in messages) <= LONGEST_TALK:
            kind = {"Kind": "change"} if "Group" not in last else {"Kind": last["Kind"], "Group": "later"}
            yield {"messages": messages, **({"Key": last["Key"]} if "Group" in last else {}), **kind}


def messages_in(each: dict) -> list[dict]:
    """The messages of a record."""
    if "messages" in each:
        return each["messages"]
    return [{"role": "user", "content": each["Question"]}, {"role": "assistant", "content": each["Answer"]}]


def follow_ups(book: Book, held_out: set, rng: Random) -> Iterator[dict]:
    """Talks of two or three questions about one person, of which the later ones do not name them.

    In some of them the last question is what the one before was, about somebody else: 那张飞呢？
    """
    by_person = defaultdict(list)
    for fact in book.facts:
        if fact["about"] in book.people and fact["about"] not in held_out and fact.get("fame", BY_HEART) < BY_HEART:
            if book.is_by_heart(fact) and fact["kind"] not in ("whose", "called"):
                by_person[fact["about"]].append(fact)
    people = [person for person, facts in by_person.items() if len(facts) > 1]
    while people:
        person = rng.choice(people)
        facts = rng.sample(by_person[person], min(len(by_person[person]), rng.choice([2, 2, 3])))
        messages = []
        for number, fact in enumerate(facts):
            if number:
                question = rng.choice(book.ask({**fact, "x": [rng.choice(PRONOUNS.split())]}, rng))
                question = (rng.choice(LINKS.split()) if rng.random() < 0.4 else "") + question
            else:
                question = rng.choice(book.ask(fact, rng))
            question = book.words.as_typed(question, rng) if not number else book.words.own(question)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": fact["Answer"]}]
        others = [person for person in people if person != facts[-1]["about"]]
        if others and rng.random() < SAME_OF_ANOTHER:
            other = rng.choice(others)
            same = next((fact for fact in by_person[other] if fact["kind"] == facts[-1]["kind"]), None)
            if same:
                question = rng.choice(SAME.split()).format(x=rng.choice([*same["x"][:1], other]))
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": same["Answer"]}]
        yield {"Kind": "follow-up", "messages": messages}
