"""What a book does not have, people and chapters, and how a question about them is answered."""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from random import Random

from miniglm.book.mentions import HANZI
from miniglm.book.sections import NUMERAL, Section, chinese_number, number_of, numbers_named, writings
from miniglm.book.wordings import Words
from miniglm.typed import SIMPLIFIED, in_script, visible

# Well known from other books and from life, to see whether a model invents when it is asked about them. Never trained.
ELSEWHERE = (
    "贾宝玉 林黛玉 薛宝钗 王熙凤 贾政 史湘云 刘姥姥 孙悟空 猪八戒 沙僧 唐僧 白骨精 红孩儿 牛魔王 宋江 林冲 武松 "
    "鲁智深 "
    "李逵 吴用 潘金莲 西门庆 高俅 郭靖 黄蓉 杨过 小龙女 段誉 萧峰 虚竹 张无忌 令狐冲 韦小宝 洪七公 欧阳锋 周伯通 "
    "李白 "
    "杜甫 白居易 苏轼 王安石 司马光 岳飞 文天祥 李世民 武则天 朱元璋 康熙 李清照 陆游 孔乙己 阿Q 祥林嫂 哈利波特 "
    "福尔摩斯 拿破仑 莎士比亚 牛顿 爱因斯坦 林肯"
)
FAMILIES = (  # common surnames and given names of our time, of which strangers are made, too
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范"
    "方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
)
COMPOUND = "司马 诸葛 欧阳 上官 夏侯 皇甫 令狐 慕容 东方 南宫 独孤 公孙 尉迟 司徒 端木 西门"  # surnames of two
GIVEN = (
    "玉宝林红明霞秀英华丽强芳军杰娟艳静伟敏勇涛超磊洋峰刚平辉玲桂兰凤洁梅琳素云莲真环雪荣爱妹香月莺媛瑞凡佳嘉琼勤珍贞莉叶璧璐娅"
    "琦晶妍茜秋珊莎锦青倩婷姣婉娴瑾颖露瑶怡婵雁蓓纨仪荷丹蓉眉君琴蕊薇菁梦岚婕馨尚香浩亮政谦亨奇固之轮翰朗伯宏言若鸣朋斌梁栋维"
    "启克伦翔旭鹏泽晨辰士建家致树炎德行时泰盛雄琛钧冠策腾楠榕风航弘悟空吾净能三八九大小龙虎"
)
KINDS = {"who": 5, "first": 4, "courtesy": 3, "sentence": 3, "alias": 1, "pair": 2}  # of questions, how often each


class Absence:
    """The people and chapters that a book does not have, each a fact as facts.book_facts gives them."""

    def __init__(self, text: str, sections: Sequence[Section], people: dict[str, list[str]], words: Words):
        """text: of the whole book. people: {name: other names} of those in it."""
        self.words, self.people = words, list(people)
        self.characters = re.findall(HANZI, text)
        full_names = (
            name[:family] + alias for name, aliases in people.items() for alias in aliases for family in (1, 2)
        )
        self.full_names = compact("\n".join(full_names))
        self.text = compact(text) + self.full_names  # 赵子龙 is there where 赵云 and 子龙 are
        numbers = [section.number for section in sections if section.number is not None]
        # Of all that may be a chapter; a gap between two is a heading that was not recognised.
        self.numbers = numbers_named(text) | set(range(max(numbers, default=0) + 1))
        labelled = all(section.label for section in sections if section.number is not None)
        whole = all(after in (before + 1, 1) for before, after in pairwise(numbers))
        self.chapters = len(numbers) if words.unit and labelled and whole else 0  # 0 where they cannot be counted
        self.kinds = {kind: weight for kind, weight in KINDS.items() if words.unit or kind != "first"}

    def has(self, name: str) -> bool:
        """Whether somebody may be in the book: their name stands anywhere in it, in either script, across lines too."""
        return compact(name) in self.text

    def denies(self, answer: str) -> bool:
        """Whether an answer says that the book does not have what it has: a person's name, a chapter's number."""
        if found := re.fullmatch(self.words.answer("absent chapter", x=f"第({NUMERAL}).{{0,2}}", n=".*"), answer):
            return number_of(found[1]) in self.numbers
        found = re.fullmatch(self.words.answer("absent", x="(.+)"), answer)
        return bool(found) and self.has(found[1])

    def facts(self, rng: Random) -> Iterator[dict]:
        """Facts about people and chapters that are put together from those in the book and are not in it.

        Nobody comes twice: the supply is endless for any real book, and ends where nobody new is found.
        """
        if not self.characters or not self.people and not self.chapters:
            return
        families = [name[: 2 if len(name) > 3 else 1] for name in self.people]
        givens = [name[1:] for name in self.people]
        highest = min(9999, 10 * self.chapters + 100)
        misses = 0
        seen: set[str] = set(map(self.words.own, ELSEWHERE.split()))
        while misses < 1000:
            if self.chapters and (not self.people or rng.random() < 0.12):
                number = rng.randint(1, highest)
                subject = rng.choice(writings(f"第{chinese_number(number)}{self.words.unit}"))
                there_is = number in self.numbers
                fact = self.chapter(subject, rng.choice(["title", "cast"]))
            else:
                subject = self.invented(families, givens, rng)
                there_is = self.has(subject) or subject in self.people
                fact = self.person(subject, self.draw(rng))
                if fact["kind"] == "pair":
                    both = rng.sample([subject, rng.choice(self.people)], 2)
                    fact |= {"x": both[:1], "y": both[1]}
            if there_is or subject in seen:
                misses += 1
                continue
            seen.add(subject)
            misses = 0
            yield fact

    def invented(self, families: Sequence[str], givens: Sequence[str], rng: Random) -> str:
        """A name: of people in the book, of any characters of it, or of our time."""
        if rng.random() < 0.4:
            return self.words.own(rng.choice(FAMILIES) + "".join(rng.choices(GIVEN, k=rng.choice([1, 2, 2]))))
        family = rng.choice(families if rng.random() < 0.75 else self.characters)
        drawn = "".join(rng.choices(self.characters, k=rng.choice([1, 2])))
        return family + (rng.choice(givens) if rng.random() < 0.5 else drawn)

    def elsewhere(self, rng: Random) -> Iterator[dict]:
        """A fact about each of ELSEWHERE whom the book does not have."""
        for name in map(self.words.own, ELSEWHERE.split()):
            if not self.has(name):
                yield self.person(name, self.draw(rng, but=("alias", "pair")))

    def draw(self, rng: Random, but: Collection[str] = ()) -> str:
        """A kind of question about a person, none of `but`."""
        kinds = {kind: weight for kind, weight in self.kinds.items() if kind not in but}
        return rng.choices(list(kinds), list(kinds.values()))[0]

    def person(self, name: str, kind: str) -> dict:
        """The fact that answers a question of that kind about somebody whom the book does not have.

        Its answer begins as one about a known person would: having said the name, a model can tell more easily.
        """
        answer = self.words.answer("absent", x=name)
        return {"kind": kind, "about": name, "x": [name], "Answer": answer, "Key": self.words.absent}

    def chapter(self, label: str, kind: str) -> dict:
        """The fact that answers a question of that kind about a chapter that the book does not have."""
        answer = self.words.answer("absent chapter", x=label, n=chinese_number(self.chapters) + self.words.unit)
        return {"kind": kind, "about": label, "x": [label], "Answer": answer, "Key": self.words.absent}


def compact(text: str) -> str:
    """A text to look for names in: no white space and marks, half width, small letters, simplified characters.

    Each character by itself: a name is not read as a word (乾坤 in 孙乾坤).
    """
    text = unicodedata.normalize("NFKC", visible(text)).casefold()
    return "".join(map(simplified, re.findall(r"\w", text)))


@functools.cache
def simplified(character: str) -> str:
    """A character in simplified form."""
    return in_script(character, SIMPLIFIED)
