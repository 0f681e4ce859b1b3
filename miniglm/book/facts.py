"""What a book says about itself, computed: its chapters, its people, and facts about them that it bears out."""

import functools
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from miniglm.book.episodes import Episode, episodes_in
from miniglm.book.known import About
from miniglm.book.mentions import SENTENCE, Marked, any_of, clauses_at, mark, quotation
from miniglm.book.people import beside_person, courtesy_names, is_unmistakable, other_names, read_people
from miniglm.book.relations import agreed, children, sworn, ties, told_facts
from miniglm.book.scenes import deaths, killings
from miniglm.book.sections import Section, chinese_number, writings
from miniglm.book.wordings import Words

NOTHING: About = {}
FAMOUS = 30  # people of whom all is asked under each of their names
CROWD = 50  # people in a sentence that is a list of names, which says little about who has to do with whom


def count_mentions(text, spellings) -> Counter:
    """How often each person is named in `text`; spellings: {name as written: person}. The longest spelling wins."""
    return Counter(spellings[match[0]] for match in any_of(spellings).finditer(text))


def sentences(text) -> list[str]:
    """The sentences of a text, each with the mark that ends it."""
    return re.findall(SENTENCE, text)


def chapter_facts(sections: Sequence[Section], words: Words):
    """Facts about headings, see book_facts: what chapter N is called, and which chapter a heading's line belongs to."""
    lines = Counter(line for section in sections for line in section.title)
    labels = [section.label for section in sections if section.number is not None] or [""]
    for label, _, title, _ in sections:
        if not title or not label:
            continue
        answer = words.answer("title", place=label, lines="".join(f"「{line}」" for line in title))
        forms = writings(label)
        if label.endswith("回"):
            forms += [form[:-1] + "章" for form in forms[:1]]
        if label == labels[-1]:
            forms += [f"最后一{words.unit}", f"末{words.unit}", f"最后那{words.unit}"]
        yield {"kind": "title", "about": label, "x": forms, "Answer": answer, "Key": title}
        for line in title:
            if lines[line] == 1:
                answer = words.answer("heading", x=line, place=label)
                yield {"kind": "heading", "about": label, "x": [line], "Answer": answer, "Key": label}


def introductions(name):
    """The ways to introduce somebody by surname and given name: 姓张名飞, 姓张，名飞."""
    splits = [(name[:n], name[n:]) for n in (1, 2) if name[n:]]
    return [f"姓{family}{comma}名{given}" for family, given in splits for comma in ("", "，")]


def name_places(sections, known):
    """{name: {section's index: [match, …]}} of all names that the pattern `known` finds: 张翼 is not in 张翼德."""
    places = defaultdict(lambda: defaultdict(list))
    for index, section in enumerate(sections):
        for match in known.finditer(section.text):
            places[match[0]][index].append(match)
    return places


def first_mention(name, sections, nicknames, places, trusted):
    """(第N回, the sentence, the name as written there) that names a person first; None where that is in doubt.

    It is in doubt where an earlier section has a name of theirs alone (`nicknames`), or their name in its heading or
    across a line's end, and where nothing in the section shows that a person is meant: 二人许允 is no 许允.
    places: see name_places. trusted: names that need not be shown to be somebody's.
    """
    for index, (label, _, _, text) in enumerate(sections):
        matches = places[name].get(index, [])
        mentions = [(match.start(), name) for match in matches]
        mentions += [(text.find(words), words) for words in introductions(name) if words in text]
        if mentions:
            position, words = min(mentions)
            begin = max(text.rfind(stop, 0, position) for stop in "。！？\n") + 1
            sentence = sentences(text[begin:])[0]
            sure = words != name or name in trusted or is_unmistakable(name)
            is_person = sure or any(beside_person(text, match) for match in matches)
            return (label, sentence, words) if is_person and words in sentence else None
        if any(nickname in text for nickname in nicknames):
            return None
        if name not in text and any(name in line for line in (*sections[index].title, in_one_line(text))):
            return None
    return None


@functools.cache
def in_one_line(text: str) -> str:
    """A text without white space."""
    return "".join(text.split())


def person_facts(sections, people, courtesy, others, places, words, trusted):
    """Facts about one person, see book_facts: names, first chapter, first sentence.

    courtesy: {name: courtesy name}. others: {name: [other names]}. places, trusted: see first_mention.
    """
    bearers = defaultdict(list)
    for name, zi in courtesy.items():
        bearers[zi].append(name)
        fact = about_person("courtesy", name, words.answer("courtesy", x=name, zi=zi), zi)
        yield fact | told_first(f"字{zi}", sections)
    for zi, bearing in bearers.items():
        answer = words.answer("whose", x=zi, names="、".join(bearing))
        yield about_person("whose", bearing[0], answer, bearing) | {"x": [zi]}
    for name, aliases in others.items():
        yield about_person("alias", name, words.answer("alias", x=name, names="、".join(aliases)), aliases)
    for name in people:
        zi, nicknames = courtesy.get(name), others.get(name, [])
        if zi and len(bearers[zi]) == 1:
            nicknames = [zi, *nicknames]
        mention = first_mention(name, sections, nicknames, places, trusted)
        if not mention:
            if zi:
                yield about_person("who", name, words.answer("who", x=name, zi=zi), [name, zi])
            continue
        place, sentence, spelling = mention
        where = [place] if place else []
        if place:
            yield about_person("first", name, words.answer("first", x=name, place=place), place) | at(place, sentence)
        if quoted := quotation(sentence, [spelling]):
            answer, key = words.answer("sentence", x=name, place=place, quote=quoted), [*where, quoted]
            yield about_person("sentence", name, answer, quoted) | at(place, sentence, quoted)
            if zi:
                answer, key = words.answer("introduced", x=name, zi=zi, place=place, quote=quoted), [zi, *key]
            looked = {"look_key": zi or quoted, "by_heart": bool(zi)}  # without a name of honour the book tells more
            yield about_person("who", name, answer, key) | at(place, sentence, quoted) | looked


def told_first(piece: str, sections: Sequence[Section]) -> dict:
    """Where a piece of text stands first, see `at`; empty where it stands nowhere."""
    for label, _, _, text in sections:
        if piece in text:
            sentence = next(sentence for sentence in sentences(text) if piece in sentence)
            position = sentence.index(piece)
            return at(label, sentence, clauses_at(sentence, max(0, position - 6), position + len(piece)))
    return {}


def at(place: str, sentence: str, quote: str = "") -> dict:
    """Where a fact stands: the label of the section, the sentence, and what of it is quoted."""
    return {"place": place, "told": sentence} | ({"quote": quote} if quote else {})


def about_person(kind: str, name: str, answer: str, key: str | list[str]) -> dict:
    """A fact, see book_facts, about one person, who is asked for by name."""
    return {"kind": kind, "about": name, "x": [name], "Answer": answer, "Key": key}


def pair_facts(sections, spellings, known, words):
    """Facts, see book_facts, about the first sentence that names two people by their full names.

    Left out are pairs whom an earlier sentence names together by other names. spellings: {name as written: person}.
    known: a pattern that finds all names, of others too.
    """
    by_any, found = set(), {}
    for label, _, _, text in sections:
        for sentence in sentences(text):
            named = list(dict.fromkeys(word for word in known.findall(sentence) if word in spellings))
            if len(named) > CROWD:
                continue
            for x, y in itertools.combinations(named, 2):
                pair = frozenset((spellings[x], spellings[y]))
                if len(pair) == 2 and pair not in by_any and pair == {x, y}:
                    found[pair] = (x, y, label, sentence)
            people = sorted({spellings[word] for word in named})
            by_any |= {frozenset(pair) for pair in itertools.combinations(people, 2)}
    for x, y, place, sentence in found.values():
        if quoted := quotation(sentence, [x, y]):
            answer = words.answer("pair", x=x, y=y, place=place, quote=quoted)
            key = [place, quoted] if place else quoted
            fact = {"kind": "pair", "about": f"{x}、{y}", "x": [x], "y": y, "Answer": answer, "Key": key}
            yield fact | at(place, sentence, quoted)


def mention_facts(sections, spellings, words):
    """Facts, see book_facts: who is named most in each section and in the whole book, by any of their names.

    spellings: {name as written: person}.
    """
    total = Counter()
    for label, _, _, text in sections:
        counts = count_mentions(text, spellings)
        total += counts
        chief = [name for name, count in counts.most_common(4) if count > 1]
        if len(chief) > 1 and label:
            answer = words.answer("cast", place=label, names="、".join(chief))
            yield {"kind": "cast", "about": label, "x": writings(label), "Answer": answer, "Key": chief}
    if total:
        ((first, _),) = total.most_common(1)
        yield {"kind": "most", "about": "", "x": [""], "Answer": words.answer("most", names=first), "Key": first}
    for n in (3, 5, 10):
        chief = [name for name, _ in total.most_common(n)]
        if len(chief) == n:
            forms = [str(n), chinese_number(n)]
            answer = words.answer("chief", n=forms[1], names="、".join(chief))
            yield {"kind": "chief", "about": "", "x": forms, "Answer": answer, "Key": chief}


def called_facts(others, courtesy, words):
    """Facts, see book_facts: whose another name is. others: {name: [other names]}. courtesy: {name: courtesy name}."""
    for name, aliases in others.items():
        for alias in aliases:
            zi = courtesy.get(name)
            answer = words.answer("called in full" if zi else "called", x=alias, y=name, zi=zi or "")
            yield about_person("called", name, answer, name) | {"x": [alias]}


def episode_facts(episodes: Iterable[Episode], words: Words):
    """Facts, see book_facts: where an episode is and who is in it."""
    for names, place, line, sentence, people in episodes:
        answer = words.answer("episode", x=names[0], place=place, names="、".join(people), quote=line)
        fact = {"kind": "episode", "about": names[0], "x": names, "Answer": answer, "Key": [place, *people]}
        yield fact | at(place, sentence, line)


def whole_facts(sections: Sequence[Section], about: About, words: Words):
    """Facts, see book_facts, about the book as a whole: who wrote it, and its length."""
    if about.get("title") and about.get("author"):
        title, author = words.own(about["title"]), words.own(about["author"])
        answer = words.answer("author", x=f"《{title}》", y=author)
        yield {"kind": "author", "about": "", "x": [title], "Answer": answer, "Key": author}
    numbers = [section.number for section in sections if section.number is not None]
    if words.unit and numbers == list(range(1, len(numbers) + 1)):
        count = chinese_number(len(numbers)) + words.unit
        answer = words.answer("length", n=count)
        yield {"kind": "length", "about": "", "x": [words.title], "Answer": answer, "Key": count}


class Facts(NamedTuple):
    """What is known of a book."""

    facts: list[dict]  # see book_facts
    people: dict[str, list[str]]  # {name: other names} of those in it, the oftenest named first
    spellings: dict[str, str]  # {name as written: person}
    texts: list[Marked]  # its sections with who is meant where; empty where there are no people


def book_facts(
    sections: Sequence[Section],
    listed,
    min_mentions: int,
    max_pairs: int,
    words: Words,
    about: About = NOTHING,
    episodes: str = "",
    believed: bool = False,
) -> Facts:
    """All facts that a book bears out, and who is in it.

    A fact is {"kind", "about", "x", "Answer", "Key"}: about, a person, a pair or a section; x, the forms in which the
    question may name it; Key, what a right answer must contain, a text or a list of texts. A pair has "y", the second.
    "place" is the section that the answer names, "" where it can name none; "told" the sentence that tells it.
    "fame" is the place of the person it is about among all, by how often the book names them, from 0.
    listed: {name: [spellings]}, as read_list gives it. min_mentions: people named less often are left out.
    max_pairs: facts about two people, at most; they are 30 % of all at most, too. episodes: see episodes.py.
    believed: all on the list are people; else the book must show it.
    """
    facts, text = list(chapter_facts(sections, words)), "\n".join(section.text for section in sections)
    facts += whole_facts(sections, about, words)
    called = about.get("called", {})
    listed = {name: [*names, *called.get(name, ())] for name, names in listed.items()}
    trusted = listed if believed else called
    people = read_people(listed, text, min_mentions, trusted) if listed else {}
    if not people:
        return Facts(facts, {}, {}, [])
    courtesy = courtesy_names(people, text)
    others = other_names(people, courtesy, text, called)
    zi_owners = Counter(courtesy.values())
    spellings = {name: name for name in people}
    spellings |= {zi: person for person, zi in courtesy.items() if zi_owners[zi] == 1}
    spellings |= {alias: person for person, aliases in others.items() for alias in aliases}
    every_name = {word for name, aliases in listed.items() for word in (name, *aliases) if len(word) > 1}
    known = any_of({*spellings, *every_name})
    mentions = count_mentions(text, spellings)
    people = dict(sorted(people.items(), key=lambda each: -mentions[each[0]]))
    texts = list(mark(sections, spellings, known))
    facts += person_facts(sections, people, courtesy, others, name_places(sections, known), words, trusted)
    facts += called_facts(others, courtesy, words)
    facts += mention_facts(sections, spellings, words)
    told = [*sworn(texts), *ties(texts), *killings(texts), *children(texts), *deaths(texts)]
    facts += told_facts(agreed(told), words)
    names_of = {person: [each for each, owner in spellings.items() if owner == person] for person in people}
    episodes_found = episodes_in(
        sections, episodes, lambda person, where: any(name in where for name in names_of.get(person, ()))
    )
    facts += episode_facts(episodes_found, words)
    pairs = pair_facts(sections, spellings, known, words)
    pairs = sorted(pairs, key=lambda fact: -min(mentions[fact["x"][0]], mentions[fact["y"]]))
    facts += pairs[: min(max_pairs, len(facts) * 3 // 7)]
    ranks = {person: rank for rank, person in enumerate(people)}
    for fact in facts:
        fact["fame"] = ranks.get(fact["about"], len(ranks))
        if fact["about"] in ranks and fact["fame"] < FAMOUS and fact["x"] == [fact["about"]] and fact["kind"] != "who":
            fact["x"] = names_of[fact["about"]]
    return Facts(facts, people, spellings, texts)
