"""What a book says about itself, computed: its chapters, its people, and facts about them that it bears out."""

import itertools
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from miniglm.errors import refuse
from miniglm.files import read_json, read_text

TITLES = {"sanguo": "三国演义", "honglou": "红楼梦", "xiyou": "西游记", "shuihu": "水浒传"}
ABSENT = "书中没有"  # what an answer says about what the book does not have
# Well known from other books and from life, to see whether a model invents when it is asked about them. Never trained.
ELSEWHERE = (
    "贾宝玉 林黛玉 薛宝钗 王熙凤 贾政 史湘云 刘姥姥 孙悟空 猪八戒 沙僧 唐僧 白骨精 红孩儿 牛魔王 宋江 林冲 武松 鲁智深 "
    "李逵 吴用 潘金莲 西门庆 高俅 郭靖 黄蓉 杨过 小龙女 段誉 萧峰 虚竹 张无忌 令狐冲 韦小宝 洪七公 欧阳锋 周伯通 李白 "
    "杜甫 白居易 苏轼 王安石 司马光 岳飞 文天祥 李世民 武则天 朱元璋 康熙 李清照 陆游 孔乙己 阿Q 祥林嫂 哈利波特 "
    "福尔摩斯 拿破仑 莎士比亚 牛顿 爱因斯坦 林肯"
)
HEADING = re.compile(r"^(第[〇零一二三四五六七八九十百千两\d]{1,9}[回章节])(?:[ \u3000:：]+(.{0,60}))?$", re.MULTILINE)
CROWD = 50  # people in a sentence that is a list of names, which says little about who has to do with whom
SENTENCE = r"[^。！？\n]+[。！？]?"
QUOTE = (8, 26)  # characters of a quotation, from whole clauses where they fit
HANZI = r"[\u4e00-\u9fff]"
# What stands beside a name where a person is meant: 千万 and 浮云 are on the list of people too.
ACTS = r"(?:曰|字|引兵|引军|领兵|领军|大怒|大喜|大惊|大叫|出马|挺枪|拍马|等|乃|拜|奏|谏|叩|听|闻|、)"
CALLED = (
    r"(?:将军|太守|刺史|校尉|都督|先锋|副将|大将|部将|谋士|长史|尚书|侍郎|中郎|司马|县令|其子|之子|其弟|兄弟|名|、)"
)


class Chapter(NamedTuple):
    """A chapter of a book."""

    label: str  # 第N回, as its heading has it
    heading: list  # the lines behind the label
    text: str


def chinese_number(number: int, zero="零") -> str:
    """1 to 9999 in Chinese, more in digits. `zero` marks a skipped place: 106 is 一百零六, with zero="" 一百六."""
    if number > 9999:
        return str(number)
    text, skipped = "", False
    for value, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, value)
        if digit and skipped and text:
            text += zero
        if digit:
            text += "零一二三四五六七八九"[digit] + unit
        skipped = not digit
    return text.removeprefix("一") if text.startswith("一十") else text


def read_book(path: Path) -> list[Chapter]:
    """The chapters of the book in `path`. Raises UserError where there are none, or two with the same number."""
    refuse(not path.is_file(), f"no book {path}", f"run python data/fetch_data.py {path.parent.name}")
    text = read_text(path, "fetch it with data/fetch_data.py, which recognises encodings")
    headings = list(HEADING.finditer(text))
    refuse(
        not headings,
        f"{path} has no chapter headings such as 第一回 or 第12章",
        "add them, a line each, or use prepare_sft.py",
    )
    twice = next((label for label, count in Counter(match[1] for match in headings).items() if count > 1), None)
    refuse(twice, f"{path} has several headings {twice}", "number the chapters through, without a table of contents")
    ends = [match.start() for match in headings[1:]] + [len(text)]
    return [Chapter(m[1], (m[2] or "").split(), text[m.end() : end]) for m, end in zip(headings, ends)]


def read_list(path) -> dict[str, list[str]]:
    """{name: its spellings}, the list of people in the JSON file `path`. Raises UserError where it is none."""
    people = read_json(path, 'give a list of people, {"name": ["name", "other name"]}')
    malformed = not all(are_texts(aliases) for aliases in people.values())
    if not malformed:
        spellings = (alias for name, aliases in people.items() for alias in (name, *aliases))
        malformed = any(re.search("[。！？\n]", alias) for alias in spellings)
    refuse(malformed, f"{path} is no list of people", 'write {"name": ["name", "other name"]}')
    return people


def are_texts(value) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def read_people(people, text, min_mentions):
    """{name: [other names]} of those in `people`, a list as read_list gives it, whom the text names as persons.

    They are named min_mentions times or more, and something beside the name shows at least once that it is a name.
    """
    spellings = {alias for name, aliases in people.items() for alias in (name, *aliases) if len(alias) > 1}
    followers, leaders, acting = defaultdict(Counter), defaultdict(Counter), set()
    for match in any_of(spellings).finditer(text):  # the longest: 陈元 is not in 陈元龙
        followers[match[0]][text[match.end() : match.end() + 1]] += 1
        leaders[match[0]][text[match.start() - 1 : match.start()]] += 1
        if beside_person(text, match):
            acting.add(match[0])
    kept = {}
    for name, aliases in people.items():
        after = followers[name]
        if len(name) < 2 or after.total() < min_mentions or name not in acting or re.search("[氏后王]$|夫人$", name):
            continue  # a surname alone, a title or 李氏 may be many persons; 浮云 does nothing
        character, often = after.most_common(1)[0]
        if often > after.total() / 2 and re.match(HANZI, character) and character not in "曰之为也等":
            continue  # part of a phrase: 马相 stands mostly in 两马相交
        character, often = leaders[name].most_common(1)[0]
        if often > 0.85 * after.total() and after.total() > 4 and re.match(HANZI, character):
            continue  # part of a longer word that the list does not have
        kept[name] = [alias for alias in dict.fromkeys(aliases) if alias != name and len(alias) > 1]
    return kept


def any_of(words) -> re.Pattern:
    """A pattern that finds the longest of some words.

    It goes by their first character, which is far faster than to try one word after the other.
    """
    rests = defaultdict(list)
    for word in sorted(words, key=lambda word: (-len(word), word)):
        rests[re.escape(word[0])].append(re.escape(word[1:]))
    return re.compile("|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in rests.items()))


def courtesy_names(people, text):
    """{name: courtesy name} as the book gives it: 赵云，字子龙; 姓张，名飞，字翼德; 次子名权，字仲谋.

    A courtesy name that is on the list of people alone does not count.
    """
    bearers = defaultdict(list)
    for name, aliases in people.items():
        for alias in aliases:
            bearers[alias].append(name)
    found = defaultdict(Counter)
    for match in re.finditer(f"字({HANZI}{{2}})(?:，后改({HANZI}{{2}}))?(?=[，。；：、”])", text):
        zi = match[2] or match[1]  # 关羽，字长生，后改云长
        before = text[max(0, match.start() - 14) : match.start()].removesuffix("，")
        introduced = re.search(rf"姓({HANZI}{{1,2}})，?名({HANZI}{{1,2}})$", before)
        if introduced:
            found[introduced[1] + introduced[2]][zi] += 2
        elif directly := next((before[-n:] for n in (4, 3, 2) if before[-n:] in people), None):
            found[directly][zi] += 2
        else:  # the given name alone, where the list says whose it is
            for name in bearers[zi]:
                if before.endswith((name[1:], name[2:]) if len(name) > 2 else name[1:]):
                    found[name][zi] += 1
    return {name: zi.most_common(1)[0][0] for name, zi in found.items() if name in people}


def other_names(people, courtesy, text):
    """{name: [names]} besides the courtesy name: 诸葛孔明, 关公. Each stands in the book and is nobody else's."""
    owners = Counter(alias for aliases in people.values() for alias in set(aliases))
    by_name = {}
    for name, aliases in people.items():
        surname = name[:2] if len(name) > 2 else name[:1]
        called = [surname + courtesy[name]] if name in courtesy else []
        for alias in aliases:
            if alias.startswith(surname) or re.search(f"(?:道号|小字|号|又名|人称)“?{re.escape(alias)}", text):
                called.append(alias)
        called = [each for each in dict.fromkeys(called) if owners[each] <= 1 and each not in people]
        called = [each for each in called if text.count(each) >= 2]
        if called:
            by_name[name] = called
    return by_name


def count_mentions(text, spellings) -> Counter:
    """How often each person is named in `text`; spellings: {name as written: person}. The longest spelling wins."""
    return Counter(spellings[match[0]] for match in any_of(spellings).finditer(text))


def quotation(sentence, words):
    """The clauses of `sentence` around `words`, a list of texts in it, word for word, of about QUOTE characters.

    None where they are longer, or quote somebody themselves.
    """
    shortest, longest = QUOTE
    edges = [0] + [m.end() for m in re.finditer("[，；：。！？、]", sentence)]
    if edges[-1] < len(sentence):
        edges.append(len(sentence))
    first, last = min(map(sentence.find, words)), max(sentence.find(word) + len(word) for word in words)
    start = max(edge for edge in edges if edge <= first)
    stop = min(edge for edge in edges if edge >= last)
    for edge in edges:
        if edge > stop and stop - start < shortest and edge - start <= longest:
            stop = edge
    quoted = sentence[start:stop].strip("，；：。！？、“”‘’ \u3000")
    return quoted if len(quoted) <= longest and not re.search("[“”‘’「」]", quoted) else None


def sentences(text) -> list[str]:
    """The sentences of a text, each with the mark that ends it."""
    return re.findall(SENTENCE, text)


def chapter_numerals(number, label):
    """The numerals by which chapter `label`, the number-th, may be asked for: 一百六, 一百零六, 106.

    Its own numeral alone where that is not its number, as in a second volume that goes on counting.
    """
    own = re.sub("[第回章节]", "", label)
    if own not in numerals(number):
        return [own]
    return [own, *(form for form in numerals(number)[:2] if form != own)]


def numerals(number) -> list[str]:
    """The ways to write a number: 一百零六, 106, 一百六; of 116 also 一百十六."""
    plain = chinese_number(number, zero="")
    return [chinese_number(number), str(number), plain, plain.replace("百一十", "百十")]


def chapter_facts(chapters):
    """Facts about headings, see book_facts: what chapter N is called, and which chapter a heading's line belongs to."""
    lines = Counter(line for _, heading, _ in chapters for line in heading)
    for number, (label, heading, _) in enumerate(chapters, 1):
        if not heading:
            continue
        word = "回目" if label.endswith("回") else "标题"
        answer = f"{label}的{word}是{''.join(f'「{line}」' for line in heading)}。"
        yield {"kind": "title", "about": label, "x": chapter_numerals(number, label), "Answer": answer, "Key": heading}
        for line in heading:
            if lines[line] == 1:
                answer = f"「{line}」是{label}的{word}。"
                yield {"kind": "heading", "about": label, "x": [line], "Answer": answer, "Key": label}


def introductions(name):
    """The ways to introduce somebody by surname and given name: 姓张名飞, 姓张，名飞."""
    splits = [(name[:n], name[n:]) for n in (1, 2) if name[n:]]
    return [f"姓{family}{comma}名{given}" for family, given in splits for comma in ("", "，")]


def name_places(chapters, known):
    """{name: {chapter's index: [match, …]}} of all names that the pattern `known` finds: 张翼 is not in 张翼德."""
    places = defaultdict(lambda: defaultdict(list))
    for index, (_, _, text) in enumerate(chapters):
        for match in known.finditer(text):
            places[match[0]][index].append(match)
    return places


def first_mention(name, chapters, nicknames, places):
    """(第N回, the sentence, the name as written there) that names a person first; None where that is in doubt.

    It is in doubt where a name of theirs alone (`nicknames`) stands in an earlier chapter, and where nothing in the
    chapter shows that a person is meant: 二人许允 is no 许允. places: see name_places.
    """
    for index, (label, _, text) in enumerate(chapters):
        matches = places[name].get(index, [])
        mentions = [(match.start(), name) for match in matches]
        mentions += [(text.find(words), words) for words in introductions(name) if words in text]
        if mentions:
            position, words = min(mentions)
            begin = max(text.rfind(stop, 0, position) for stop in "。！？\n") + 1
            sentence = sentences(text[begin:])[0]
            is_person = words != name or any(beside_person(text, match) for match in matches)
            return (label, sentence, words) if is_person and words in sentence else None
        if any(nickname in text for nickname in nicknames):
            return None
    return None


def beside_person(text, match) -> bool:
    """Whether the words before or behind a name, a match in `text`, show that a person is meant."""
    before, behind = text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 2]
    return bool(re.match(ACTS, behind) or re.search(CALLED + "$", before))


def person_facts(chapters, people, courtesy, others, places):
    """Facts about one person, see book_facts: names, first chapter, first sentence.

    courtesy: {name: courtesy name}. others: {name: [other names]}. places: see name_places.
    """
    bearers = defaultdict(list)
    for name, zi in courtesy.items():
        bearers[zi].append(name)
        yield {"kind": "courtesy", "about": name, "x": [name], "Answer": f"{name}字{zi}。", "Key": zi}
    for zi, bearing in bearers.items():
        answer = f"字{zi}的是{'、'.join(bearing)}。"
        yield {"kind": "whose", "about": bearing[0], "x": [zi], "Answer": answer, "Key": bearing}
    for name, aliases in others.items():
        answer = f"{name}又称{'、'.join(aliases)}。"
        yield {"kind": "alias", "about": name, "x": [name], "Answer": answer, "Key": aliases}
    for name in people:
        zi, nicknames = courtesy.get(name), others.get(name, [])
        if zi and len(bearers[zi]) == 1:
            nicknames = [zi, *nicknames]
        mention = first_mention(name, chapters, nicknames, places)
        if not mention:
            if zi:
                yield {"kind": "who", "about": name, "x": [name], "Answer": f"{name}，字{zi}。", "Key": [name, zi]}
            continue
        label, sentence, spelling = mention
        yield {"kind": "first", "about": name, "x": [name], "Answer": f"{name}最早见于{label}。", "Key": label}
        if quoted := quotation(sentence, [spelling]):
            answer, key = f"{name}最早见于{label}：「{quoted}」。", [label, quoted]
            yield {"kind": "sentence", "about": name, "x": [name], "Answer": answer, "Key": quoted}
            if zi:
                answer, key = f"{name}，字{zi}，最早见于{label}：「{quoted}」。", [zi, label, quoted]
            yield {"kind": "who", "about": name, "x": [name], "Answer": answer, "Key": key}


def pair_facts(chapters, spellings, known):
    """Facts, see book_facts, about the first sentence that names two people by their full names.

    Left out are pairs whom an earlier sentence names together by other names. spellings: {name as written: person}.
    known: a pattern that finds all names, of others too.
    """
    by_any, found = set(), {}
    for label, _, text in chapters:
        for sentence in sentences(text):
            words = list(dict.fromkeys(word for word in known.findall(sentence) if word in spellings))
            if len(words) > CROWD:
                continue
            for x, y in itertools.combinations(words, 2):
                pair = frozenset((spellings[x], spellings[y]))
                if len(pair) == 2 and pair not in by_any and pair == {x, y}:
                    found[pair] = (x, y, label, sentence)
            people = sorted({spellings[word] for word in words})
            by_any |= {frozenset(pair) for pair in itertools.combinations(people, 2)}
    for x, y, label, sentence in found.values():
        if quoted := quotation(sentence, [x, y]):
            answer = f"{x}、{y}最早同见于{label}：「{quoted}」。"
            yield {"kind": "pair", "about": f"{x}、{y}", "x": [x], "y": y, "Answer": answer, "Key": [label, quoted]}


def mention_facts(chapters, spellings):
    """Facts, see book_facts: who is named most in each chapter and in the whole book, by any of their names.

    spellings: {name as written: person}.
    """
    total = Counter()
    for number, (label, _, text) in enumerate(chapters, 1):
        counts = count_mentions(text, spellings)
        total += counts
        chief = [name for name, count in counts.most_common(4) if count > 1]
        if len(chief) > 1:
            answer = f"{label}主要有{'、'.join(chief)}。"
            yield {"kind": "cast", "about": label, "x": chapter_numerals(number, label), "Answer": answer, "Key": chief}
    for n in (3, 5, 10):
        chief = [name for name, _ in total.most_common(n)]
        if len(chief) == n:
            forms = [str(n), chinese_number(n)]
            answer = f"按姓名、字和别称数，书中出现最多的{chinese_number(n)}人是{'、'.join(chief)}。"
            yield {"kind": "chief", "about": "", "x": forms, "Answer": answer, "Key": chief}


def book_facts(chapters, listed, min_mentions, max_pairs):
    """(all facts that the book bears out, {name: [other names]} of the people in them).

    A fact is {"kind", "about", "x", "Answer", "Key"}: about, a person, a pair or a chapter; x, the forms in which the
    question may name it; Key, what a right answer must contain, a text or a list of texts. A pair has "y", the second.
    listed: {name: [spellings]}, as read_list gives it. min_mentions: people named less often are left out.
    max_pairs: facts about two people, at most; they are 30 % of all at most, too.
    """
    facts, text = list(chapter_facts(chapters)), "\n".join(chapter.text for chapter in chapters)
    people = read_people(listed, text, min_mentions) if listed else {}
    if people:
        courtesy = courtesy_names(people, text)
        others = other_names(people, courtesy, text)
        zi_owners = Counter(courtesy.values())
        spellings = {name: name for name in people}
        spellings |= {zi: person for person, zi in courtesy.items() if zi_owners[zi] == 1}
        spellings |= {alias: person for person, aliases in others.items() for alias in aliases}
        every_name = {word for name, aliases in listed.items() for word in (name, *aliases) if len(word) > 1}
        known = any_of({*spellings, *every_name})
        facts += person_facts(chapters, people, courtesy, others, name_places(chapters, known))
        facts += mention_facts(chapters, spellings)
        mentions = count_mentions(text, spellings)
        pairs = pair_facts(chapters, spellings, known)
        pairs = sorted(pairs, key=lambda fact: -min(mentions[fact["x"][0]], mentions[fact["y"]]))
        facts += pairs[: min(max_pairs, len(facts) * 3 // 7)]
    return facts, people


def whole_text(chapters) -> str:
    """The text of the book with the lines of its headings, without their labels."""
    return "\n".join(line for _, heading, text in chapters for line in (*heading, text))


def absent_facts(chapters, people, rng):
    """Facts, see book_facts, about people and chapters that the book does not have, which is what their answers say.

    Names are put together from those of people who are in it and from its characters. Nobody comes twice: the supply
    is endless for any real book, and ends where nobody new is found. rng: a random.Random that draws.
    """
    text = whole_text(chapters)
    families, givens = [name[: 2 if len(name) > 3 else 1] for name in people], [name[1:] for name in people]
    characters = re.findall(HANZI, text)
    if not characters:
        return
    numbered = {form for number, (label, _, _) in enumerate(chapters, 1) for form in chapter_numerals(number, label)}
    highest = min(9999, 10 * len(chapters) + 100)
    kinds, weights = ["who", "first", "courtesy", "sentence", "alias", "pair"], [5, 4, 3, 3, 1, 2]
    seen, misses = set(ELSEWHERE.split()), 0
    while misses < 1000:
        if not people or rng.random() < 0.12:
            forms = numerals(rng.randint(1, highest))
            subject = rng.choice(forms[:2])
            fact = absent_chapter(subject, chapters, rng.choice(["title", "cast"]))
            there_is = not numbered.isdisjoint(forms)
        else:
            family = rng.choice(families if rng.random() < 0.75 else characters)
            given = rng.choice(givens) if rng.random() < 0.5 else "".join(rng.choices(characters, k=rng.choice([1, 2])))
            subject = family + given
            there_is = subject in text or subject in people
            fact = absent_person(subject, rng.choices(kinds, weights)[0])
            if fact["kind"] == "pair":
                both = rng.sample([subject, rng.choice(list(people))], 2)
                fact |= {"x": both[:1], "y": both[1]}
        if there_is or subject in seen:
            misses += 1
            continue
        seen.add(subject)
        misses = 0
        yield fact


def elsewhere_facts(chapters, rng):
    """A fact, see book_facts, about each of ELSEWHERE whom the book does not have. rng: a random.Random that draws."""
    text = whole_text(chapters)
    for name in ELSEWHERE.split():
        if name not in text:
            yield absent_person(name, rng.choice(["who", "who", "first", "courtesy", "sentence"]))


def absent_person(name, kind):
    """The fact, see book_facts, that answers a question of that kind about somebody whom the book does not have.

    Its answer begins as one about a known person would: having said the name, a model can tell more easily.
    """
    return {"kind": kind, "about": name, "x": [name], "Answer": f"{name}，{ABSENT}这个人。", "Key": ABSENT}


def absent_chapter(form, chapters, kind):
    """The fact, see book_facts, that answers a question of that kind about a chapter that the book does not have.

    form: its number, in any numeral.
    """
    unit = chapters[0][0][-1]
    answer = f"第{form}{unit}{ABSENT}，全书共{chinese_number(len(chapters))}{unit}。"
    return {"kind": kind, "about": form, "x": [form], "Answer": answer, "Key": ABSENT}
