"""What a book says about itself, computed: its chapters, its people, and facts about them that it bears out."""

import itertools
import re
from collections import Counter, defaultdict

from miniglm.errors import UserError, refuse
from miniglm.files import read_json

TITLES = {"sanguo": "三国演义", "honglou": "红楼梦", "xiyou": "西游记", "shuihu": "水浒传"}
ABSENT = "书中没有"  # what an answer says about what the book does not have
# Well known from elsewhere, to see whether the model invents where it is asked for them. Never trained.
ELSEWHERE = (
    "贾宝玉 林黛玉 薛宝钗 王熙凤 贾政 史湘云 刘姥姥 孙悟空 猪八戒 沙僧 唐僧 白骨精 红孩儿 牛魔王 宋江 林冲 武松 鲁智深 李逵 吴用 潘金莲 "
    "西门庆 高俅 郭靖 黄蓉 杨过 小龙女 段誉 萧峰 虚竹 张无忌 令狐冲 韦小宝 洪七公 欧阳锋 周伯通 李白 杜甫 白居易 苏轼 王安石 司马光 岳飞 "
    "文天祥 李世民 武则天 朱元璋 康熙 李清照 陆游 孔乙己 阿Q 祥林嫂 哈利波特 福尔摩斯 拿破仑 莎士比亚 牛顿 爱因斯坦 林肯"
)
HEADING = re.compile(r"^(第[〇零一二三四五六七八九十百千两\d]{1,9}[回章节])(?:[ \u3000:：]+(.{0,60}))?$", re.MULTILINE)
CROWD = 50  # people in a sentence that is a list of names: who was named together there says little
SENTENCE = r"[^。！？\n]+[。！？]?"
QUOTE = (8, 26)  # characters of a quotation, from whole clauses where they fit
HANZI = r"[\u4e00-\u9fff]"
# What stands beside a name where a person is meant: 千万 and 浮云 are on the list of people too.
ACTS = r"(?:曰|字|引兵|引军|领兵|领军|大怒|大喜|大惊|大叫|出马|挺枪|拍马|等|乃|拜|奏|谏|叩|听|闻|、)"
CALLED = (
    r"(?:将军|太守|刺史|校尉|都督|先锋|副将|大将|部将|谋士|长史|尚书|侍郎|中郎|司马|县令|其子|之子|其弟|兄弟|名|、)"
)


def chinese_number(number, zero="零"):
    """1..9999 in Chinese, digits above; `zero` stands for a skipped place: 106 is 一百零六, without it 一百六."""
    if number > 9999:
        return str(number)
    text, skipped = "", False
    for value, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, value)
        if digit:
            text += zero * (skipped and bool(text)) + "零一二三四五六七八九"[digit] + unit
        skipped = not digit
    return text.removeprefix("一") if text.startswith("一十") else text


def read_book(path):
    """[(第N回, its heading's lines, its text)], a chapter each; Raises UserError where there are none."""
    refuse(not path.is_file(), f"no book {path}", f"run python data/fetch_data.py {path.parent.name}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text", "fetch it with data/fetch_data.py, which recognises encodings"
        ) from error
    found = list(HEADING.finditer(text))
    refuse(
        not found,
        f"{path} has no chapter headings such as 第一回 or 第12章",
        "add them, a line each, or use prepare_sft.py",
    )
    twice = next((label for label, count in Counter(match[1] for match in found).items() if count > 1), None)
    refuse(twice, f"{path} has several headings {twice}", "number the chapters through, without a table of contents")
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match[1], (match[2] or "").split(), text[match.end() : end]) for match, end in zip(found, ends)]


def read_list(path):
    """{name: [its spellings]}, the list of people in `path`. Raises UserError where it is none."""
    people = read_json(path, 'give a list of people, {"name": ["name", "other name"]}')
    proper = all(isinstance(x, list) and all(isinstance(a, str) for a in x) for x in people.values())
    proper = proper and not any(re.search("[。！？\n]", a) for name, x in people.items() for a in (name, *x))
    refuse(not proper, f"{path} is no list of people", 'write {"name": ["name", "other name"]}')
    return people


def read_people(people, text, min_mentions):
    """{name: [other names]} of those on the list whom the book names as persons, min_mentions times or more."""
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


def any_of(words):
    """A pattern for the longest of some words, by their first character, which is far faster than one after the other."""
    rests = defaultdict(list)
    for word in sorted(words, key=lambda word: (-len(word), word)):
        rests[re.escape(word[0])].append(re.escape(word[1:]))
    return re.compile("|".join(f"{first}(?:{'|'.join(rest)})" for first, rest in rests.items()))


def courtesy_names(people, text):
    """{name: courtesy name} as the book gives it: 赵云，字子龙; 姓张，名飞，字翼德; 次子名权，字仲谋. The list alone counts for nothing."""
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
        else:  # the given name alone, where the list knows whose it is
            for name in bearers[zi]:
                if before.endswith((name[1:], name[2:]) if len(name) > 2 else name[1:]):
                    found[name][zi] += 1
    return {name: zi.most_common(1)[0][0] for name, zi in found.items() if name in people}


def other_names(people, courtesy, text):
    """{name: [names]} besides the courtesy name: 诸葛孔明, 关公. Each stands in the book and is nobody else's."""
    owners = Counter(alias for aliases in people.values() for alias in set(aliases))
    found = {}
    for name, aliases in people.items():
        surname = name[:2] if len(name) > 2 else name[:1]
        own = [surname + courtesy[name]] if name in courtesy else []
        own += [
            a
            for a in aliases
            if a.startswith(surname) or re.search(f"(?:道号|小字|号|又名|人称)“?{re.escape(a)}", text)
        ]
        own = [a for a in dict.fromkeys(own) if owners[a] <= 1 and a not in people and text.count(a) >= 2]
        if own:
            found[name] = own
    return found


def count_mentions(text, spellings):
    """Counter of persons named in `text`; spellings: {name as written: person}. The longest spelling wins."""
    return Counter(spellings[match[0]] for match in any_of(spellings).finditer(text))


def quotation(sentence, words):
    """The clauses of `sentence` around `words`, word for word, of about QUOTE characters; None where it cannot be."""
    shortest, longest = QUOTE
    edges = [0] + [m.end() for m in re.finditer("[，；：。！？、]", sentence)]
    edges += [len(sentence)] * (edges[-1] < len(sentence))
    first, last = min(map(sentence.find, words)), max(sentence.find(word) + len(word) for word in words)
    start = max(edge for edge in edges if edge <= first)
    stop = min(edge for edge in edges if edge >= last)
    for edge in edges:
        if edge > stop and stop - start < shortest and edge - start <= longest:
            stop = edge
    quoted = sentence[start:stop].strip("，；：。！？、“”‘’ \u3000")
    return quoted if len(quoted) <= longest and not re.search("[“”‘’「」]", quoted) else None


def sentences(text):
    """The sentences of a text, as they stand."""
    return re.findall(SENTENCE, text)


def numerals(number, label):
    """How chapter `label`, the number-th, may be asked for: 一百六, 一百零六, 106; its own form alone where that is another number."""
    own = re.sub("[第回章节]", "", label)
    return [own, *(form for form in written(number)[:2] if form != own)] if own in written(number) else [own]


def written(number):
    """The ways to write a number: 一百一十六, 116; 百一十六 with 百十六, and without 零 where one would stand."""
    plain = chinese_number(number, zero="")
    return [chinese_number(number), str(number), plain, plain.replace("百一十", "百十")]


def chapter_facts(chapters):
    """Facts about headings: what chapter N is called, and which chapter a heading's line belongs to."""
    lines = Counter(line for _, heading, _ in chapters for line in heading)
    for number, (label, heading, _) in enumerate(chapters, 1):
        if not heading:
            continue
        word = "回目" if label.endswith("回") else "标题"
        answer = f"{label}的{word}是{''.join(f'「{line}」' for line in heading)}。"
        yield {"kind": "title", "about": label, "x": numerals(number, label), "Answer": answer, "Key": heading}
        for line in heading:
            if lines[line] == 1:
                answer = f"「{line}」是{label}的{word}。"
                yield {"kind": "heading", "about": label, "x": [line], "Answer": answer, "Key": label}


def introductions(name):
    """How the book may bring somebody in: 姓张名飞, 姓张，名飞."""
    splits = [(name[:n], name[n:]) for n in (1, 2) if name[n:]]
    return [f"姓{family}{comma}名{given}" for family, given in splits for comma in ("", "，")]


def name_places(chapters, known):
    """{name: {chapter's index: [match, …]}} of all names as whole words: 张翼 is not in 张翼德."""
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
        whole = places[name].get(index, [])
        written = [(match.start(), name) for match in whole]
        written += [(text.find(words), words) for words in introductions(name) if words in text]
        if written:
            at, words = min(written)
            begin = max(text.rfind(stop, 0, at) for stop in "。！？\n") + 1
            sentence = re.match(SENTENCE, text[begin:])[0]
            sure = words != name or any(beside_person(text, match) for match in whole)
            return (label, sentence, words) if sure and words in sentence else None
        if any(nickname in text for nickname in nicknames):
            return None
    return None


def beside_person(text, match):
    """Whether what stands before or behind a name shows that a person is meant."""
    before, behind = text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 2]
    return bool(re.match(ACTS, behind) or re.search(CALLED + "$", before))


def person_facts(chapters, people, courtesy, others, places):
    """Facts about one person: names, first chapter, first sentence."""
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
        nicknames = [zi for zi in [courtesy.get(name)] if zi and len(bearers[zi]) == 1] + others.get(name, [])
        called = f"{name}，字{courtesy[name]}" if name in courtesy else name
        found = first_mention(name, chapters, nicknames, places)
        if not found:
            if name in courtesy:
                key = [name, courtesy[name]]
                yield {"kind": "who", "about": name, "x": [name], "Answer": f"{called}。", "Key": key}
            continue
        label, sentence, written = found
        yield {"kind": "first", "about": name, "x": [name], "Answer": f"{name}最早见于{label}。", "Key": label}
        if quoted := quotation(sentence, [written]):
            answer = f"{name}最早见于{label}：「{quoted}」。"
            yield {"kind": "sentence", "about": name, "x": [name], "Answer": answer, "Key": quoted}
            answer = f"{called}，最早见于{label}：「{quoted}」。" if name in courtesy else answer
            key = [courtesy[name], label, quoted] if name in courtesy else [label, quoted]
            yield {"kind": "who", "about": name, "x": [name], "Answer": answer, "Key": key}


def pair_facts(chapters, spellings, known):
    """The first sentence that names two people, where it is the same by their full names and by any of their names."""
    by_any, found = set(), {}
    for label, _, text in chapters:
        for sentence in sentences(text):
            written = list(dict.fromkeys(word for word in known.findall(sentence) if word in spellings))
            if len(written) > CROWD:
                continue
            for x, y in itertools.combinations(written, 2):
                pair = frozenset((spellings[x], spellings[y]))
                if len(pair) == 2 and pair not in by_any and pair == {x, y}:
                    found[pair] = (x, y, label, sentence)
            people = sorted({spellings[word] for word in written})
            by_any |= {frozenset(pair) for pair in itertools.combinations(people, 2)}
    for x, y, label, sentence in found.values():
        if quoted := quotation(sentence, [x, y]):
            answer = f"{x}、{y}最早同见于{label}：「{quoted}」。"
            yield {"kind": "pair", "about": f"{x}、{y}", "x": [x], "y": y, "Answer": answer, "Key": [label, quoted]}


def mention_facts(chapters, spellings):
    """Who is in each chapter, and who is named most in the whole book, by full name, courtesy name and other names."""
    total = Counter()
    for number, (label, _, text) in enumerate(chapters, 1):
        counts = count_mentions(text, spellings)
        total += counts
        chief = [name for name, count in counts.most_common(4) if count > 1]
        if len(chief) > 1:
            answer = f"{label}主要有{'、'.join(chief)}。"
            yield {"kind": "cast", "about": label, "x": numerals(number, label), "Answer": answer, "Key": chief}
    for n in (3, 5, 10):
        chief = [name for name, _ in total.most_common(n)]
        if len(chief) == n:
            forms = [str(n), chinese_number(n)]
            answer = f"按姓名、字和别称数，书中出现最多的{chinese_number(n)}人是{'、'.join(chief)}。"
            yield {"kind": "chief", "about": "", "x": forms, "Answer": answer, "Key": chief}


def book_facts(chapters, listed, min_mentions, max_pairs):
    """(all facts, {name: [other names]} of the people in them).

    listed: {name: [spellings]}, as read_list gives it. A fact is {"kind", "about", "x", "Answer", "Key"}: about, a person
    or chapter; x, the forms in which the question may name it; Key, what a right answer must contain. Pairs have "y".
    """
    facts, text = list(chapter_facts(chapters)), "\n".join(text for _, _, text in chapters)
    people = read_people(listed, text, min_mentions) if listed else {}
    if people:
        courtesy = courtesy_names(people, text)
        others = other_names(people, courtesy, text)
        zi_owners = Counter(courtesy.values())
        spellings = {name: name for name in people}
        spellings |= {zi: person for person, zi in courtesy.items() if zi_owners[zi] == 1}
        spellings |= {alias: person for person, aliases in others.items() for alias in aliases}
        known = any_of(
            {*spellings, *(word for name, aliases in listed.items() for word in (name, *aliases) if len(word) > 1)}
        )
        facts += person_facts(chapters, people, courtesy, others, name_places(chapters, known))
        facts += mention_facts(chapters, spellings)
        mentions = count_mentions(text, spellings)
        pairs = pair_facts(chapters, spellings, known)
        pairs = sorted(pairs, key=lambda fact: -min(mentions[fact["x"][0]], mentions[fact["y"]]))
        pairs = list({fact["Answer"]: fact for fact in reversed(pairs)}.values())[::-1]  # one a sentence
        facts += pairs[: min(max_pairs, len(facts) * 3 // 7)]
    return facts, people


def whole_text(chapters):
    """The book with its headings, a line each."""
    return "\n".join(line for _, heading, text in chapters for line in (*heading, text))


def absent_facts(chapters, people, rng):
    """Endless "facts" about people and chapters that the book does not have.

    Names are put together from those of people who are in it and from its characters. What has been asked for before
    does not come again; it ends where all has.
    """
    text = whole_text(chapters)
    families, givens = [name[: 2 if len(name) > 3 else 1] for name in people], [name[1:] for name in people]
    characters = re.findall(HANZI, text)
    if not characters:
        return
    numbered = {form for number, (label, _, _) in enumerate(chapters, 1) for form in numerals(number, label)}
    highest = min(9999, 10 * len(chapters) + 100)
    kinds, weights = ["who", "first", "courtesy", "sentence", "alias", "pair"], [5, 4, 3, 3, 1, 2]
    asked, misses = set(ELSEWHERE.split()), 0
    while misses < 1000:
        if not people or rng.random() < 0.12:
            forms = written(rng.randint(1, highest))
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
        if there_is or subject in asked:
            misses += 1
            continue
        asked.add(subject)
        misses = 0
        yield fact


def elsewhere_facts(chapters, rng):
    """The same about each of ELSEWHERE who is not in this book."""
    text = whole_text(chapters)
    for name in ELSEWHERE.split():
        if name not in text:
            yield absent_person(name, rng.choice(["who", "who", "first", "courtesy", "sentence"]))


def absent_person(name, kind):
    """What there is to say to a question of that kind about somebody who is not in the book.

    It begins as the answer about a known one would: having said the name, the model tells more easily.
    """
    return {"kind": kind, "about": name, "x": [name], "Answer": f"{name}，{ABSENT}这个人。", "Key": ABSENT}


def absent_chapter(form, chapters, kind):
    """The same for a chapter beyond the last; form: its number, in any numeral."""
    unit = chapters[0][0][-1]
    answer = f"第{form}{unit}{ABSENT}，全书共{chinese_number(len(chapters))}{unit}。"
    return {"kind": kind, "about": form, "x": [form], "Answer": answer, "Key": ABSENT}
