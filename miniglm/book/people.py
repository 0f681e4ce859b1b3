"""Who is in a book: those on a list whom it names as persons, or those of whom it speaks as one does of persons.

People are {name: [their other names]}.
"""

import re
from collections import Counter, defaultdict

from miniglm.book.absence import COMPOUND, FAMILIES
from miniglm.book.mentions import ACTS, HANZI, any_of, in_both_scripts
from miniglm.errors import refuse
from miniglm.files import read_json
from miniglm.typed import TRADITIONAL, in_script

TOWARDS = "到于往至回离在取入出奔屯守望犯攻"  # stand before a place
COMMON_FAMILY, OFTEN_NAMED = 2, 5  # people of a surname, and mentions, from which a name is believed that does nothing
# What stands before a name where a person is meant: 千万 and 浮云 are on the list of people too.
CALLED = in_both_scripts(
    "将军|太守|刺史|校尉|都督|先锋|副将|大将|部将|谋士|长史|尚书|侍郎|中郎|司马|县令|其子|之子|其弟|兄弟|名|、"
)
RENAMED = in_both_scripts("后改")
ALSO_CALLED = in_both_scripts("道号|小字|号|又名|人称")
# What stands behind a name in any prose, and before one.
SPEAKS = in_both_scripts(
    "说|问|道|曰|喊|叫|笑|哭|想|答|回答|看|望|听|走|跑|站|坐|来到|回到|进|出|点头|点了点头|摇头|摇了摇头|叹|转过|转身|伸手|抬头|低头|"
    "拿起|皱|觉得|知道|以为|心里|心想|不禁|忽然|突然|连忙|也|却|又|便|把|被|没有|的"
)
SPOKEN_TO = in_both_scripts("对|向|跟|和|同|给|问|叫|看着|望着|拉着|告诉|遇见|听见|看见|、")
SAID = in_both_scripts("说|问|道|曰|喊|叫|笑|哭|想|答|回答|走|跑|站|坐|点头|摇头|叹")  # more of them than of others
NO_NAME = in_both_scripts(  # characters that end a word of another kind, and words that begin as a surname does
    "[的了着地得又也就却便都才还不一在是有这那们他她我你它个么吗呢啊吧说问道笑想看走来去到过上下里后前中时么什怎]|"
    "^(?:高兴|方才|常常|何必|何况|安静|黄昏|万一|于是|钱财|万分|方向|白天|平时|金子|江湖|史书|龙王|石头)"
)
LEAST_SAID, LEAST_NAMED, PERSONAL = 3, 5, 0.3  # times, and the share of its places in which it is spoken of as a person


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


def read_people(people, text, min_mentions, trusted=()):
    """{name: [other names]} of those in `people`, a list as read_list gives it, whom the text names as persons.

    They are named min_mentions times or more, and something beside the name shows at least once that it is a name;
    those whose names are `trusted` need not be shown to be persons.
    """
    spellings = {alias for name, aliases in people.items() for alias in (name, *aliases) if len(alias) > 1}
    followers, leaders, acting = defaultdict(Counter), defaultdict(Counter), Counter()
    for match in any_of(spellings).finditer(text):  # the longest: 陈元 is not in 陈元龙
        followers[match[0]][text[match.end() : match.end() + 1]] += 1
        leaders[match[0]][text[match.start() - 1 : match.start()]] += 1
        if beside_person(text, match):
            acting[match[0]] += 1
    families = Counter(name[0] for name in people if acting[name] and len(name) > 1)
    kept = {}
    for name, aliases in people.items():
        after = followers[name]
        if len(name) < 2 or after.total() < min_mentions:
            continue
        if name in trusted:
            kept[name] = [alias for alias in dict.fromkeys(aliases) if alias != name and len(alias) > 1]
            continue
        if re.search("[氏后王]$|夫人$", name):
            continue  # a title or 李氏 may be many persons
        place = sum(leaders[name][before] for before in TOWARDS) > 0.3 * after.total()
        surnamed = families[name[0]] >= COMMON_FAMILY and after.total() >= OFTEN_NAMED and not place  # 许昌 is a town
        if not is_unmistakable(name) and not acting[name] and not surnamed:
            continue  # 浮云 does nothing
        character, often = after.most_common(1)[0]
        in_phrase = often > after.total() / 2 and re.match(HANZI, character) and character not in "曰之为為也等"
        if in_phrase and not is_unmistakable(name):
            continue  # part of a phrase: 马相 stands mostly in 两马相交
        character, often = leaders[name].most_common(1)[0]
        in_word = often > 0.85 * after.total() and after.total() > 4 and re.match(HANZI, character)
        if in_word and not is_unmistakable(name):
            continue  # part of a longer word that the list does not have
        kept[name] = [alias for alias in dict.fromkeys(aliases) if alias != name and len(alias) > 1]
    return kept


def left_out(people, kept, text, min_mentions) -> dict[str, list[str]]:
    """{why: the names} of those on a list that are not among the people `kept`."""
    reasons = defaultdict(list)
    for name in people:
        if name in kept:
            continue
        if len(name) < 2:
            reason = "one character is in too many words"
        elif name not in text:
            reason = "the book does not have the name"
        elif text.count(name) < min_mentions:
            reason = f"the book has the name fewer than {min_mentions} times"
        else:
            reason = "nothing beside the name shows that it is somebody"
        reasons[reason].append(name)
    return reasons


def is_unmistakable(name: str) -> bool:
    """Whether a name is long enough to mean a person wherever it stands: 太史慈, while 马相 stands in 两马相交 too."""
    return len(name) > 2


def courtesy_names(people, text):
    """{name: courtesy name} as the book gives it: 赵云，字子龙; 姓张，名飞，字翼德; 次子名权，字仲谋.

    A courtesy name that is on the list of people alone does not count.
    """
    bearers = defaultdict(list)
    for name, aliases in people.items():
        for alias in aliases:
            bearers[alias].append(name)
    found = defaultdict(Counter)
    for match in re.finditer(f"字({HANZI}{{2}})(?:，{RENAMED}({HANZI}{{2}}))?(?=[，。；：、”也者])", text):
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


def other_names(people, courtesy, text, called):
    """{name: [names]} besides the courtesy name: 诸葛孔明, 关公. Each stands in the book and is nobody else's.

    called: {name: [names]} of those that are known to be theirs.
    """
    owners = Counter(alias for aliases in people.values() for alias in set(aliases))
    by_name = {}
    for name, aliases in people.items():
        surname = name[:2] if len(name) > 2 else name[:1]
        others = [surname + courtesy[name]] if name in courtesy else []
        for alias in aliases:
            known = alias.startswith(surname) or alias in called.get(name, ())
            if known or re.search(f"{ALSO_CALLED}[“「]?{re.escape(alias)}", text):
                others.append(alias)
        others = [each for each in dict.fromkeys(others) if owners[each] <= 1 and each not in people]
        others = [each for each in others if each != courtesy.get(name) and text.count(each) >= 2]
        if others:
            by_name[name] = others
    return by_name


def beside_person(text, match) -> bool:
    """Whether the words before or behind a name, a match in `text`, show that a person is meant."""
    before, behind = text[max(0, match.start() - 2) : match.start()], text[match.end() : match.end() + 2]
    return bool(re.match(ACTS, behind) or re.search(CALLED + "$", before))


def find_people(text: str) -> dict[str, list[str]]:
    """{name: [name]} of whom a text speaks as one does of persons, by their surname and given name.

    They say or do something at the beginning of a clause LEAST_SAID times, in more than one word, and are spoken of so
    in a good part of the places in which their name stands.
    """
    family = f"(?:{in_both_scripts(COMPOUND.replace(' ', '|'))}|[{FAMILIES}{in_script(FAMILIES, TRADITIONAL)}])"
    acting = re.compile(rf"(?<![\u4e00-\u9fff])({family}{HANZI}{{1,2}}?)({SAID})")
    said = defaultdict(Counter)
    for match in acting.finditer(text):
        said[match[1]][match[2]] += 1
    candidates = {
        name: words
        for name, words in said.items()
        if words.total() >= LEAST_SAID and len(words) > 1 and not re.search(NO_NAME, name)
    }
    if not candidates:
        return {}
    named, personal = Counter(), Counter()
    for match in any_of(candidates).finditer(text):
        before, behind = text[max(0, match.start() - 3) : match.start()], text[match.end() : match.end() + 4]
        named[match[0]] += 1
        personal[match[0]] += bool(re.match(SPEAKS, behind) or re.search(f"(?:{SPOKEN_TO})$", before))
    people = [name for name in candidates if named[name] >= LEAST_NAMED and personal[name] >= PERSONAL * named[name]]
    return {name: [name] for name in sorted(people, key=lambda name: -named[name])}
