"""What a book tells of its people in passing: who slew whom, whose child or wife somebody is, where from, what arms.

Each is read off a sentence by a pattern over the mentions in it, see mentions.py, and keeps that sentence:

    云长斩颜良于马下，良军大败。    # Tie("slain", "颜良", "关羽", "第二十五回", that sentence)
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from miniglm.book.mentions import HANZI, NAMED, PERSON, SENTENCE, Marked, clauses_at, given_name
from miniglm.book.wordings import Words

OTHER = PERSON.replace("[", "[^", 1)[:-1]  # a class of characters, not closed: anything but a mention and …
AWAY, NEAR = f"{OTHER}。]", f"{OTHER}。，；]"  # within a sentence, within a clause
KIN = "(?:长|次|第.|三|四|少|幼|小)?"
SLEW = "(?:斩|刺死|刺|杀|射死|射杀|砍|搠死|搠|戮)"
# What is only meant to be, or said not to be.
UNDONE = "将|把|欲|必|喝|独|操(?=杀)|要|教|劝|不|若|待|来|谋|何|未|休|莫|勿|想|敢|恐|恨|追|使|令|愿|当|可|直|先"
WISHED, FEARED = re.compile(UNDONE), re.compile("恐|若|欲|教|令|要|说|必|谋")
# Kinds of ties, each with patterns: {x} is whom it is about, {y} the other, P any mention; what else y may be, as w.
PATTERNS = {
    "slain": [
        f"(?P<how>(?<![擒了死斩杀救遇])(?P<y>P){AWAY}{{0,14}}?)(?:{SLEW})(?:了|死)?(?P<x>P)(?:于马下|落马|"
        f"于{NEAR}{{1,4}}|死|首级)(?=[，。；])",
        f"(?P<how>(?<![擒了死斩杀救遇])(?P<y>P){AWAY}{{0,14}}?)(?:斩|杀|射死|刺死|砍死|射杀)(?:了|"
        f"死)?(?P<x>P)(?=[，。；])",
        f"(?P<how>(?<![擒了死斩杀救遇])(?P<y>P){AWAY}{{0,14}}?)(?:刺|砍|搠|戮)(?:了|死)(?P<x>P)(?=[，。；])",
        "(?P<y>P)(?:提|枭)了?(?P<x>P)之?(?:首级|头|首)(?=[，。；])",
        f"(?P<x>P)(?P<how>{NEAR}{{0,8}}?，?{NEAR}{{0,10}}?，?)(?:早|却|俱|皆|"
        f"已)?[被为](?P<y>P){NEAR}{{0,8}}?(?<!谋){SLEW}(?:了|死|于马下|落马|而死)?(?=[，。；])",
    ],
    "son": [
        f"(?P<x>P)(?:之|的)?{KIN}(?:义|养)?子(?:，?名)?(?P<y>P)",
        f"(?P<y>P)，?(?:乃|是|即|者，)(?P<x>P)之?{KIN}子也?(?=[，。；])",
        f"(?P<x>P){NEAR}{{0,4}}(?:遂|又)?立{KIN}子(?P<y>P)",
    ],
    "brother": [
        "(?P<x>P)(?:之)?(?:亲|族|从|堂)?弟(?P<y>P)",
        "(?P<x>P)(?:与|同|使|令|引|遣)其?弟(?P<y>P)",
    ],
    "wife": [
        f"(?P<x>P)之?妻(?P<y>P|{HANZI}?氏|{HANZI}?{HANZI}夫人)",
        "(?P<y>P),?，?(?:乃|是|即)(?P<x>P)之?(?:妻|主妇|夫人)(?:也)?(?=[，。；])",
    ],
    "native": [
        f"(?P<x>P)(?:，?(?:表?字)(?:P|"
        f"{HANZI}{{2}}))?[，；]乃?(?P<w>{OTHER}。，；：“”之一数众百十乃是此]{{2,6}})人(?:也|氏)(?=[，。；：])",
        f"(?P<x>P)，(?:表?字)(?:P|"
        f"{HANZI}{{2}})，(?:后改P，)?(?P<w>{OTHER}。，；：“”之一数众百十乃是此]{{2,6}})人(?=[，。；：])",
        f"(?:乃|是)(?P<w>{OTHER}。，；：“”之一数众百十乃是此]{{2,6}})人(?:也|氏)?，覆?姓{HANZI}{{1,2}}，?名(?P<x>P)",
    ],
    "office": [
        f"(?:封|拜|加|表|迁|除|升)(?P<x>P)为(?P<w>{OTHER}。，；：“”]{{2,8}}?)(?=[，。；])",
        f"以(?P<x>P)为(?P<w>{OTHER}。，；：“”]{{1,6}}(?:将军|太守|都督|校尉|尚书|刺史|丞相|军师|太尉|司徒|先锋|"
        f"长史|侍中|牧))(?=[，。；])",
    ],
    "arms": [
        f"(?P<x>P){AWAY}{{0,20}}?(?:手执|手持|手提|手挺|执|持|挺|舞|提|绰|使|轮|横|仗|造|倒拖|取)(?:着|起|"
        f"了)?(?:一?[条口柄枝杆根张把])?"
        f"(?P<w>{OTHER}。，；动起着我了个一之]{{1,6}}?(?:枪|刀|戟|矛|斧|剑|鞭|锤|棒|骨朵))(?=[，。；直来拍跃纵])",
    ],
    "look": [
        f"(?P<x>P)(?:，?字(?:P|..))?，?(?P<w>(?:生得|身长){OTHER}。；]{{6,40}})",
        f"(?<!P，)(?P<w>(?:生得)?身长{OTHER}。；]{{6,44}})(?:；[^。]{{0,60}})?(?:。[^。]{{0,40}})?(?:。[^。]{{0,10}})?姓{HANZI}{{1,2}}，?名(?P<x>P)",
    ],
}

CHILD = "(?:长|次|第.|[一二三四五六]|少|幼)?"
NEARBY = 400  # characters before a child's name within which the parent is named
LONGEST_LIST = 64  # characters of a quotation from a parent to a child
LONGEST_QUOTE = 36  # characters of a quotation


class Tie(NamedTuple):
    """What a sentence tells of somebody."""

    kind: str
    x: str  # whom it is about
    y: str  # the other person, or what is told of the first
    place: str  # the label of its section
    sentence: str
    quote: str = ""  # the clauses of it that tell this


def ties(texts: Iterable[Marked]) -> Iterator[Tie]:
    """All that the patterns find, in the order of the book."""
    patterns = [
        (kind, re.compile(re.sub(r"(?<![?A-Z])P(?![A-Z<])", lambda _: PERSON, each)))
        for kind, found in PATTERNS.items()
        for each in found
    ]
    for marked in texts:
        matches = ((match, kind) for kind, pattern in patterns for match in pattern.finditer(marked.text))
        for match, kind in sorted(matches, key=lambda each: each[0].start()):
            found = match.groupdict()
            x = marked.who(found["x"])
            told = found.get("y") or found["w"]
            y = marked.who(told) if told in marked.mentions else marked.plain(told)
            before = marked.text[max(0, match.start() - 4) : match.start()]
            if x != y and not FEARED.search(before) and not WISHED.search(found.get("how") or ""):
                place = "w" if found.get("w") else "x"
                told = marked.plain(sentence_at(marked.text, match.start(place)))
                quote = marked.plain(clauses_at(marked.text, match.start(), match.end()))
                quote = quote if quote in told else ""
                yield Tie(kind, x, y, marked.label, told, quote)


def sworn(texts: Iterable[Marked]) -> Iterator[Tie]:
    """Sworn brothers, each with each: 念刘备、关羽、张飞，虽然异姓，既结为兄弟."""
    bound = re.compile(f"{PERSON}(?:、{PERSON})+，?{OTHER}。“”]{{0,10}}结(?:为兄弟|义)")
    for marked in texts:
        for match in bound.finditer(marked.text):
            told = marked.plain(sentence_at(marked.text, match.start()))
            quote = marked.plain(clauses_at(marked.text, *match.span()))
            people = [marked.who(each) for each in re.findall(PERSON, match[0])]
            for x, y in combinations(dict.fromkeys(people), 2):
                yield Tie("brother", x, y, marked.label, told, quote)


def children(texts: Sequence[Marked]) -> Iterator[Tie]:
    """Sons who are named after a parent of their surname: 长子名策，字伯符 behind 孙坚, 子刘禅 behind 刘备."""
    people = {mention.person for marked in texts for mention in marked.mentions.values()}
    listed = re.compile(f"{CHILD}子?(?:名|曰)(?P<given>{HANZI})，字|(?<=[。，；]){CHILD}子(?P<y>{NAMED})(?=，)")
    for marked in texts:
        siblings = set()
        for match in listed.finditer(marked.text):
            begin = max(0, match.start() - NEARBY)
            for found in reversed(list(re.finditer(PERSON, marked.text[begin : match.start()]))):
                if re.search("子(?:名|曰)?$", marked.text[max(0, begin + found.start() - 3) : begin + found.start()]):
                    continue  # a child themselves: 长子曹昂
                parent = marked.who(found[0])
                family = parent[: len(parent) - len(given_name(parent))]
                child = family + match["given"] if match["given"] else marked.who(match["y"])
                if child in people and child.startswith(family) and child != parent and parent not in siblings:
                    siblings.add(child)
                    told = marked.plain(sentence_at(marked.text, match.start()))
                    quote = marked.plain(clauses_at(marked.text, begin + found.start(), match.end()))
                    if quote not in told or len(quote) > LONGEST_LIST:
                        quote = marked.plain(clauses_at(marked.text, *match.span()))
                    yield Tie("son", parent, child, marked.label, told, quote)
                    break


def sentence_at(text: str, position: int) -> str:
    """The sentence of a text in which a position is."""
    begin = max(text.rfind(stop, 0, position) for stop in "。！？\n") + 1
    found = re.compile(SENTENCE).match(text, begin)
    return found[0] if found else ""


def agreed(found: Iterable[Tie]) -> dict[tuple[str, str], list[Tie]]:
    """{(kind, x): its ties}, one for each y, the oftenest told first; where many slay one man, nobody is taken."""
    by_subject = defaultdict(list)
    for tie in found:
        by_subject[tie.kind, tie.x].append(tie)
    kept = {}
    for subject, told in by_subject.items():
        counts = Counter(tie.y for tie in told)
        first = {tie.y: tie for tie in reversed(told)}
        order = [first[y] for y, _ in counts.most_common()]
        if subject[0] == "slain" and len(order) > 1 and counts[order[0].y] == counts[order[1].y]:
            continue
        kept[subject] = order
    return kept


def told_facts(found: dict[tuple[str, str], list[Tie]], words: Words) -> Iterator[dict]:
    """Facts, see facts.book_facts, of the ties that `agreed` gives.

    Beside what is told of somebody stands its reverse: whom they slew, whose child they are, what two people are.
    """
    slew, brothers, bearers = defaultdict(list), defaultdict(list), defaultdict(list)
    for (kind, x), told in found.items():
        first, names = told[0], [tie.y for tie in told]
        if kind == "slain":
            yield fact("slain", x, words.answer("slain", x=x, y=first.y, place=first.place), first.y, first)
            slew[first.y].append(first)
        elif kind == "death":
            if quote := first.quote:
                yield fact("death", x, words.answer("death", x=x, place=first.place, quote=quote), quote, first)
        elif kind == "son":
            yield fact("sons", x, words.answer("sons", x=x, names="、".join(names)), names, first)
            for tie in told:
                yield fact("father", tie.y, words.answer("father", x=tie.y, y=x), x, tie)
                yield from kin(tie.y, x, "son of", "father of", tie, words)
        elif kind == "brother":
            for tie in told:
                brothers[x].append(tie)
                brothers[tie.y].append(tie._replace(x=tie.y, y=x))
                yield from kin(x, tie.y, "brother of", "brother of", tie, words)
        elif kind == "wife":
            yield fact("wife", x, words.answer("wife", x=x, y=first.y), first.y, first)
            yield fact("husband", first.y, words.answer("husband", x=first.y, y=x), x, first)
            yield from kin(first.y, x, "wife of", "husband of", first, words)
        elif kind == "native":
            yield fact("native", x, words.answer("native", x=x, w=first.y), first.y, first)
        elif kind == "office":
            yield fact("office", x, words.answer("office", x=x, names="、".join(names[:3])), names[:3], first)
        elif kind == "arms":
            arms = max(told, key=lambda tie: len(tie.y))
            yield fact("arms", x, words.answer("arms", x=x, w=arms.y), arms.y, arms)
            bearers[arms.y].append(arms)
        elif kind == "look" and (quote := told_words(first, first.y)):
            yield fact("look", x, words.answer("look", x=x, place=first.place, quote=quote), quote, first)
    for x, told in slew.items():
        names = [tie.x for tie in told][:5]
        yield fact("slew", x, words.answer("slew", x=x, names="、".join(names)), names, told[0])
    for x, told in brothers.items():
        names = list(dict.fromkeys(tie.y for tie in told))
        yield fact("brothers", x, words.answer("brothers", x=x, names="、".join(names)), names, told[0])
    for arms, told in bearers.items():
        if len(told) == 1 and len(arms) > 2:
            yield fact("bearer", arms, words.answer("bearer", w=arms, x=told[0].x), told[0].x, told[0])


def kin(x: str, y: str, kind: str, reverse: str, tie: Tie, words: Words) -> Iterator[dict]:
    """What two people are to each other, asked from either side."""
    for one, other, answered in ((x, y, kind), (y, x, reverse)):
        told = fact("kin", one, words.answer(answered, x=one, y=other), answered_word(answered, words), tie)
        yield told | {"about": f"{one}、{other}", "y": other}


def answered_word(kind: str, words: Words) -> str:
    """The word for a kinship in an answer: 儿子, 兄弟."""
    return words.answer(kind, x="", y="").strip("和是的。")


def told_words(tie: Tie, piece: str = "") -> str:
    """What is quoted of a tie's sentence: a piece of it, or its end, from whole clauses; "" where that is too long."""
    clauses = re.findall("[^，。；：！？“”‘’]+[，。；：！？]?", piece or tie.sentence)
    quoted = ""
    for clause in clauses if piece else reversed(clauses):
        longer = quoted + clause if piece else clause + quoted
        if len(longer) > LONGEST_QUOTE:
            break
        quoted = longer
    return quoted.strip("，。；：！？、 ") if quoted.strip("，。；：！？、 ") in tie.sentence else ""


def fact(kind: str, x: str, answer: str, key: str | list[str], tie: Tie) -> dict:
    """A fact about x with the sentence that bears it out."""
    about = {"kind": kind, "about": x, "x": [x], "Answer": answer, "Key": key}
    return about | {"place": tie.place, "told": tie.sentence, "quote": tie.quote or told_words(tie)}
