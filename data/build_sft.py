"""Questions about a book whose answers can be checked: writes questions.jsonl, val.jsonl and eval.jsonl to data/NAME_sft.

    python data/build_sft.py sanguo                             # people from data/sanguo/entities.json
    python data/build_sft.py mybook --entities=mypeople.json    # {"name": ["name", "other name", …], …}

Every fact is read off the book; the list of people only says which words are names. A fact is kept where the book
itself bears it out. Without a list there are questions about the chapters alone.
"""

import itertools
import json
import random
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import configure
from errors import UserError, require
from files import read_json, write_whole

# -----------------------------------------------------------------------------
names = ["sanguo"]  # the book, given without --; it has headings such as 第一回 or 第12章
entities = ""  # the list of people; the default is data/NAME/entities.json where there is one
title = ""  # how the questions call the book, as in 《三国演义》里; the default is known for the four novels
backend = "book"  # where answers come from; book: computed from the book
min_mentions = 4  # people named less often are left out
max_pairs = 120  # facts about two people, the best known; at most 30 % of all facts in any case
wordings = 4  # questions trained for each fact, each in other words; more for some kinds, see MORE_WORDINGS
unseen_share = (
    0.03  # people, pairs and chapters of which nothing is trained, to see what the model answers where it cannot know
)
eval_questions = 400  # of each group in eval.jsonl
seed = 1337  # which facts and wordings fall where
# -----------------------------------------------------------------------------

TITLES = {"sanguo": "三国演义", "honglou": "红楼梦", "xiyou": "西游记", "shuihu": "水浒传"}
HEADING = re.compile(r"^(第[〇零一二三四五六七八九十百千两\d]{1,9}[回章节])(?:[ \u3000:：]+(.{0,60}))?$", re.MULTILINE)
SENTENCE = r"[^。！？\n]+[。！？]?"
QUOTE = (8, 26)  # characters of a quotation, from whole clauses where they fit
HANZI = r"[\u4e00-\u9fff]"
# What stands beside a name where a person is meant: 千万 and 浮云 are on the list of people too.
ACTS = r"(?:曰|字|引兵|引军|领兵|领军|大怒|大喜|大惊|大叫|出马|挺枪|拍马|等|乃|拜|奏|谏|叩|听|闻|、)"
CALLED = (
    r"(?:将军|太守|刺史|校尉|都督|先锋|副将|大将|部将|谋士|长史|尚书|侍郎|中郎|司马|县令|其子|之子|其弟|兄弟|名|、)"
)

# Ways to ask, by kind. Each fact is trained in a few of the first list; the second is only asked in eval.jsonl.
# {t} is 《title》里, 书中 or nothing. Questions that end with ？ may get one of LEADS in front.
LEADS = ["", "", "", "", "请问", "请问", "告诉我，", "我想知道", "你知道", "那么", "再问一下，"]
TRAINED_WORDINGS = {
    "who": "{x}是谁？ {t}{x}是谁？ 介绍一下{x}。 {x}是什么人？ 说说{x}这个人。 {t}的{x}是什么人物？ 请介绍{x}。 {x}何许人也？ 讲讲{x}。 谁是{x}？ 认识{x}吗？ 说一说{x}。 "
    "{x}这个人是谁？ 谈谈{x}。 讲一讲{x}是什么人。 给我介绍{x}。 我想了解{x}。 {t}{x}是个什么样的人？ 说说{x}是谁。 {x}？",
    "courtesy": "{x}字什么？ {x}的字是什么？ {x}的表字是什么？ {t}{x}字什么？ {x}表字叫什么？ {x}字叫什么？ 说出{x}的字。 {t}{x}的表字叫什么？ {x}的字叫什么？ {x}表字为何？ "
    "{x}的字是哪两个字？ {x}取的字是什么？ 说说{x}的字。 写出{x}的表字。 {x}的表字？ {x}有什么字？ 给我{x}的表字。",
    "whose": "谁字{x}？ 字{x}的是谁？ {x}是谁的字？ {t}谁字{x}？ 表字{x}的人是谁？ {x}是谁的表字？ 哪个人字{x}？ {t}字{x}的是哪个人？ 谁的表字是{x}？ {x}是谁？ {t}{x}指的是谁？ "
    "字{x}的那个人叫什么？ 谁的字叫{x}？ 说出字{x}的人。 {x}这个字是谁的？",
    "alias": "{x}又叫什么？ {x}还有什么名字？ {x}的别名有哪些？ {t}{x}又称什么？ {x}还叫什么？ {x}有哪些称呼？ {t}{x}还有哪些名字？ 说出{x}的其他称呼。 {x}也叫什么？ {x}的别称是什么？ "
    "{t}人们还怎么称呼{x}？ {x}另外叫什么？ {x}的其他名字是什么？",
    "first": "{x}最早在第几回出现？ {x}首次出现在哪一回？ {t}{x}第一次出现在第几回？ {x}在哪一回出场？ {x}最早见于哪一回？ {x}第几回出场？ 哪一回第一次写到{x}？ {t}{x}哪一回登场？ "
    "{x}初次登场是第几回？ {x}最先出现在哪一回？ 第几回才有{x}？ {x}从第几回起出现？ {t}最早提到{x}是第几回？ 说出{x}首次出现的回数。 {x}第一次登场在哪回？ 首次写到{x}的是哪一回？ {x}哪回开始出现？",
    "sentence": "哪一句最先写到{x}？ {x}出场的原句是什么？ {t}第一次写{x}的是哪句话？ {x}首次出现的原文是什么？ 引出{x}的是哪一句？ {t}最早提到{x}的原句是什么？ {x}登场时原文怎么写？ "
    "引用最先写到{x}的句子。 {x}出场的那句话是什么？ 原文里怎么引出{x}？ 写出{x}第一次出现的原句。 {t}{x}出场时是怎么写的？ 首次提{x}的原话是哪句？ 请引用{x}登场的原文。",
    "pair": "哪一句最先同时提到{x}和{y}？ 最早同时写到{x}和{y}的是哪一句？ {x}和{y}的名字最先在哪一句里一同出现？ {t}哪句话最先提到{x}和{y}两人？ 最早同时写{x}、{y}的原文是什么？ "
    "{t}{x}和{y}第一次同句出现在第几回？ {x}与{y}首次同在一句是哪一回？ 最先把{x}和{y}写在一句里的是第几回？ {x}跟{y}的名字最早在哪一句一起出现？ 第几回首先把{x}与{y}写在一句？ "
    "{x}和{y}最早同句的原文怎么写？ 首先同时提到{x}跟{y}的句子是哪句？ {t}{x}同{y}最先写在一句里是哪里？ 引用最先同时写到{x}和{y}的句子。",
    "title": "第{x}回的回目是什么？ 第{x}回叫什么？ 第{x}回的标题是什么？ {t}第{x}回的回目是什么？ 第{x}回题目是什么？ 说出第{x}回的回目。 {t}第{x}回叫什么名字？ 第{x}回回目怎么写？ "
    "第{x}回的题目叫什么？ 写出第{x}回的标题。 第{x}回的名字？ {t}第{x}回标题怎么写？",
    "heading": "“{x}”是第几回？ “{x}”是哪一回的回目？ {t}“{x}”在第几回？ 哪一回叫“{x}”？ “{x}”出自哪一回？ 回目“{x}”是第几回的？ {t}哪一回的回目有“{x}”？ “{x}”见于第几回？ {x}是第几回？ "
    "{x}是哪一回？ 标题“{x}”在哪一回？ 说出“{x}”的回数。 第几回的题目是“{x}”？",
    "cast": "第{x}回有哪些人物？ 第{x}回里有谁？ 第{x}回主要写了谁？ {t}第{x}回的人物有谁？ 第{x}回出场的主要人物有哪些？ 哪些人出现在第{x}回？ {t}第{x}回写到了哪些人？ 说说第{x}回的人物。 "
    "第{x}回都有谁？ 第{x}回讲了哪些人？ 列出第{x}回的主要人物。",
    "chief": "{t}出现最多的{x}个人物是谁？ 主要人物有哪{x}个？ {t}写得最多的{x}个人是谁？ 说出最主要的{x}个人物。 {t}最重要的{x}个角色是谁？ 哪{x}个人物出现次数最多？ {t}的{x}大主角是谁？ "
    "前{x}名人物是谁？ 最常出现的{x}个人物是谁？ {t}谁是最主要的{x}个人？",
}
MORE_WORDINGS = {"title": 2, "cast": 2, "pair": 2, "chief": 4}  # times as many: several numerals, few facts, hard ones
NEW_WORDINGS = {
    "who": "你知道{x}吗？ {t}的{x}是何人？ 给我讲讲{x}是谁。",
    "courtesy": "请问{x}表字叫做什么？ 告诉我{x}的字是什么。 {x}以什么为字？",
    "whose": "请问谁的字是{x}？ {x}是哪个人的字？ 表字叫{x}的是谁？",
    "alias": "{x}还被称作什么？ 请问{x}的别的名字是什么？ {x}有什么别称？",
    "first": "请问{x}最先出现于第几回？ {x}是从哪一回开始出现的？ 第一次提到{x}是在哪一回？",
    "sentence": "书里第一次提{x}的原话是什么？ 请引用{x}出场的那句原文。 {x}出场那句话怎么说？",
    "pair": "请问哪一句里{x}跟{y}最先同时出现？ {x}与{y}头一次写在同一句是在哪一回？ 首先把{x}和{y}写在一起的是哪句？",
    "title": "请问第{x}回的题目是怎样的？ 第{x}回的名称是什么？ 告诉我第{x}回的标题。",
    "heading": "请问“{x}”属于哪一回？ “{x}”这个标题是第几回的？ 题为“{x}”的是哪一回？",
    "cast": "请问第{x}回都有谁出场？ 第{x}回讲的是哪些人？ 第{x}回中出现了什么人？",
    "chief": "请列出{t}出场最多的{x}个人。 提到次数排在前{x}的人物是谁？",
}


def chinese_number(number, zero="零"):
    """1..9999 in Chinese; `zero` stands for a skipped place: 106 is 一百零六, without it 一百六."""
    text, skipped = "", False
    for value, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, number = divmod(number, value)
        if digit:
            text += zero * (skipped and bool(text)) + "零一二三四五六七八九"[digit] + unit
        skipped = not digit
    return text.removeprefix("一") if text.startswith("一十") else text


def read_book(path):
    """[(第N回, its heading's lines, its text)], a chapter each; Raises UserError where there are none."""
    require(path.is_file(), f"no book {path}", f"run python data/fetch_data.py {path.parent.name}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no UTF-8 text", "fetch it with data/fetch_data.py, which recognises encodings"
        ) from error
    found = list(HEADING.finditer(text))
    require(
        found,
        f"{path} has no chapter headings such as 第一回 or 第12章",
        "add them, a line each, or use prepare_sft.py",
    )
    twice = next((label for label, count in Counter(match[1] for match in found).items() if count > 1), None)
    require(
        not twice, f"{path} has several headings {twice}", "number the chapters through, without a table of contents"
    )
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [(match[1], (match[2] or "").split(), text[match.end() : end]) for match, end in zip(found, ends)]


def read_list(path):
    """{name: [its spellings]}, the list of people in `path`. Raises UserError where it is none."""
    people = read_json(path, 'give a list of people, {"name": ["name", "other name"]}')
    proper = all(isinstance(x, list) and all(isinstance(a, str) for a in x) for x in people.values())
    require(proper, f"{path} is no list of people", 'write {"name": ["name", "other name"]}')
    return people


def read_people(people, text):
    """{name: [other names]} of those on the list whom the book names as persons."""
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
    forms = [own, chinese_number(number), str(number)]
    plain = chinese_number(number, zero="")
    return list(dict.fromkeys(forms)) if own in (*forms, plain, plain.replace("百一十", "百十")) else [own]


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
            for x, y in itertools.combinations(written, 2):
                pair = frozenset((spellings[x], spellings[y]))
                if len(pair) == 2 and pair not in by_any and pair == {x, y}:
                    found[pair] = (x, y, label, sentence)
            people = sorted({spellings[word] for word in written})
            by_any |= {frozenset(pair) for pair in itertools.combinations(people, 2)}
    for x, y, label, sentence in found.values():
        if quoted := quotation(sentence, [x, y]):
            answer = f"{label}：「{quoted}」。"
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


def phrasings(fact, templates, leads):
    """All questions about `fact` that the templates give, in random order, its numerals taking turns."""
    by_form = []
    if unit != "回":
        templates = templates.replace("回目", "标题").replace("回", unit)
    for x in fact["x"]:
        asked = {}
        for template in templates.split():
            place = rng.choice(places if template.startswith("{t}") else places[1:]) if "{t}" in template else ""
            lead = rng.choice(leads) if template.endswith("？") else ""
            question = template.format(x=x, y=fact.get("y"), t=place).removeprefix("的")  # {t}的{x} without a place
            asked[lead + question] = None
        by_form.append(rng.sample(list(asked), len(asked)))
    rng.shuffle(by_form)
    return [question for turn in itertools.zip_longest(*by_form) for question in turn if question]


configure(
    globals(),
    positional="names",
    limits={
        "min_mentions": (1, None),
        "max_pairs": (0, None),
        "wordings": (1, 6),
        "unseen_share": (0, 0.5),
        "eval_questions": (1, None),
    },
    choices={"backend": ("book",)},
)
require(len(names) == 1, "one book at a time", "name one")
name = names[0]
book_title = title or TITLES.get(name, "")
rng = random.Random(seed)
chapters = read_book(Path("data", name, "input.txt"))
facts = list(chapter_facts(chapters))
entities = entities or (f"data/{name}/entities.json" if Path("data", name, "entities.json").exists() else "")
people = {}
if entities:
    body = "\n".join(text for _, _, text in chapters)
    listed = read_list(entities)
    people = read_people(listed, body)
if people:
    courtesy = courtesy_names(people, body)
    others = other_names(people, courtesy, body)
    zi_owners = Counter(courtesy.values())
    spellings = {name: name for name in people}
    spellings |= {zi: person for person, zi in courtesy.items() if zi_owners[zi] == 1}
    spellings |= {alias: person for person, aliases in others.items() for alias in aliases}
    known = any_of(
        {*spellings, *(word for name, aliases in listed.items() for word in (name, *aliases) if len(word) > 1)}
    )
    facts += person_facts(chapters, people, courtesy, others, name_places(chapters, known))
    facts += mention_facts(chapters, spellings)
    mentions = count_mentions(body, spellings)
    pairs = pair_facts(chapters, spellings, known)
    pairs = sorted(pairs, key=lambda fact: -min(mentions[fact["x"][0]], mentions[fact["y"]]))
    pairs = list({fact["Answer"]: fact for fact in reversed(pairs)}.values())[::-1]  # a sentence with three names once
    facts += pairs[: min(max_pairs, len(facts) * 3 // 7)]
else:
    print("nobody to ask about: questions about the chapters alone (--entities=FILE gives a list of people)")
require(facts, f"{name} gives nothing to ask about", "give its chapters titles, or a list of people as --entities=FILE")

unit = chapters[0][0][-1]  # 回, 章 or 节
places = ["", "书中", f"《{book_title}》里"] if book_title else ["", "书中"]
subjects = list(dict.fromkeys(fact["about"] for fact in facts if fact["kind"] != "chief"))
held_out = set(rng.sample(subjects, round(unseen_share * len(subjects))))
training, validation, groups = [], [], defaultdict(list)
for fact in facts:
    usual = phrasings(fact, TRAINED_WORDINGS[fact["kind"]], LEADS)
    new = phrasings(fact, NEW_WORDINGS[fact["kind"]], [""])
    if fact["about"] in held_out:
        questions = {"unseen": usual[0]}
    else:
        trained = usual[: wordings * MORE_WORDINGS.get(fact["kind"], 1)]
        training += [{"Question": question, "Answer": fact["Answer"], "Kind": fact["kind"]} for question in trained]
        questions = {"seen": trained[0], "new_wording": new[0]}
        if len(usual) > len(trained):
            questions["reworded"] = usual[len(trained)]
        if len(usual) > len(trained) + 1:
            validation.append({"Question": usual[len(trained) + 1], "Answer": fact["Answer"], "Kind": fact["kind"]})
    for group, question in questions.items():
        record = {
            "Question": question,
            "Answer": fact["Answer"],
            "Key": fact["Key"],
            "Group": group,
            "Kind": fact["kind"],
        }
        groups[group].append(record)

target = Path("data", f"{name}_sft")
rng.shuffle(training)
evaluation = [record for group in groups.values() for record in rng.sample(group, min(len(group), eval_questions))]
validation = rng.sample(validation, min(len(validation), eval_questions))
for file, records in (("questions", training), ("val", validation), ("eval", evaluation)):
    with write_whole(target / f"{file}.jsonl") as out:
        out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    print(f"{target / file}.jsonl: {len(records):,} questions")
counts = Counter(fact["kind"] for fact in facts)
print(f"{len(facts):,} facts: " + ", ".join(f"{kind} {count}" for kind, count in counts.most_common()))
