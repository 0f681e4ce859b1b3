"""A book's sentences with who is meant in them and which facts they bear out, for miniglm/book/passages.py."""

import re
from collections import defaultdict
from collections.abc import Sequence

from miniglm.book.facts import Facts
from miniglm.book.mentions import PERSON, SENTENCE, Marked
from miniglm.book.passages import Forms, Passages, Sentence
from miniglm.book.scenes import last_acts
from miniglm.book.sections import Section


def passages_of(sections: Sequence[Section], known: Facts, forms: Forms, beside: str = "") -> Passages:
    """The Passages of a book from its sections and what is known of it. beside: see Passages."""
    told = defaultdict(list)  # {(section's label, sentence): the facts that it bears out}
    for fact in known.facts:
        if sentence := fact.get("told"):
            for subject in fact["x"] if fact["kind"] in ("bearer", "episode") else [fact["about"]]:
                said = fact["Answer"].strip("。") if fact["kind"] == "episode" else fact.get("quote", "")
                told[fact["place"], sentence.strip()].append([fact["kind"], subject, said])
    casts = {fact["about"]: fact["Answer"].strip("。") for fact in known.facts if fact["kind"] == "cast"}
    sentences = []
    texts = known.texts or [Marked(section.label, section.text, {}) for section in sections]
    for section, text in zip(sections, texts):
        if heading := "　".join(section.title):
            people = sorted({person for written, person in known.spellings.items() if written in heading})
            tells = [each for line in section.title for each in told.get((section.label, line), ())]
            if section.label in casts:
                tells.append(["cast", section.label, casts[section.label]])
            sentences.append(Sentence(section.label, 0, heading, {}, people, tells))
        for place, match in enumerate(re.finditer(SENTENCE, text.text), 1):
            mentions = [text.mentions[character] for character in re.findall(PERSON, match[0])]
            who = {each.written: each.person for each in mentions if each.written != each.person}
            people = list(dict.fromkeys(each.person for each in mentions))
            if plain := text.plain(match[0]).strip():
                tells = told.get((section.label, plain), [])
                sentences.append(Sentence(section.label, place, plain, who, people, tells))
    names = {person: [person, *(w for w, p in known.spellings.items() if w != person == p)] for person in known.people}
    return Passages(sentences, names, forms, last_acts(known.texts), beside)
