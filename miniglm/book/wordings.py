"""The words in which a fact about a book is asked for, by kind of fact."""

import itertools
from random import Random

from miniglm.typed import SIMPLIFIED, TRADITIONAL, in_script

# A table of wordings gives for each kind of fact the templates of its questions, separated by spaces: {x} is what the
# fact is about (张飞, 第一回), {y} the second of a pair, {t} 《title》里, 书中 or nothing. A question that ends with ？
# may get one of LEADS in front. TRAINED_WORDINGS are trained, a few for each fact; NEW_WORDINGS are only asked in
# eval.jsonl.
LEADS = ["", "", "", "", "请问", "请问", "告诉我，", "我想知道", "你知道", "那么", "再问一下，"]
# How a question is typed: some of the trained ones get a few GREETINGS in front, THANKS behind, or one of SLIPS.
GREETINGS = (
    "你好 你好 你好 您好 您好 你好呀 您好呀 嗨 哈喽 hi hello 早 早上好 上午好 中午好 下午好 晚上好 大家好 老师好 老师 "
    "同学 朋友 小助手 喂 在吗 在不在 打扰了 打扰一下 不好意思 麻烦您 麻烦一下 劳驾 请教一下 想请教 请问一下 问一下 "
    "我想问问 帮个忙 有个问题 我有个问题"
)
THANKS = "谢谢 谢谢 谢谢你 谢谢您 谢谢啦 多谢 感谢 感谢您 非常感谢 麻烦了 麻烦你了 辛苦了 拜托了 快告诉我 急"
SLIPS = {
    "什么": ["神么", "甚么", "啥"],
    "哪": ["那"],
    "是谁": ["谁"],
    "的": [""],
    "？": ["", "", "呢？", "啊？", "。"],
    "。": ["", "吧。"],
    "第一次": ["第1次"],
    "书中": ["书里"],
}
# Of what may stand in the place of a greeting or of thanks, so that one that was never heard is passed over, too.
CHARACTERS = (
    "小阿老大明红强丽伟芳军杰娟艳亲姐哥弟妹爷奶叔伯同志先生女士师傅宝贝家人们各位助手机器模型书童掌柜嘿呀哎哟嗯噢啊"
    "好请忙帮安晚午夜今天白知道想看听真太很快急等您我问答费心承蒙受教佩服指点告辞了的在也都"
)
UNHEARD = 0.35  # of greetings and thanks
HALF_WIDTH = str.maketrans("，。？！：“”", ',.?!:""')
# Only asked in eval.jsonl.
NEW_GREETINGS = "哥们 亲爱的 有劳大驾 您好啊 晚安 书僮你好 嗨嗨 叨扰 冒昧问一句 考考你"
NEW_THANKS = "谢啦 有劳了 多谢指教 感激不尽 不胜感激"
GREETED, THANKED, SLIPPED = 0.22, 0.12, 0.1  # the shares of trained questions
TRAINED_WORDINGS = {
    "who": "{x}是谁？ {t}{x}是谁？ 介绍一下{x}。 {x}是什么人？ 说说{x}这个人。 {t}的{x}是什么人物？ 请介绍{x}。 "
    "{x}何许人也？ 讲讲{x}。 谁是{x}？ 认识{x}吗？ 说一说{x}。 {x}这个人是谁？ 谈谈{x}。 讲一讲{x}是什么人。 "
    "给我介绍{x}。 我想了解{x}。 {t}{x}是个什么样的人？ 说说{x}是谁。 {x}？ {x}是哪位？ 有个{x}，是谁？ "
    "关于{x}，说几句。 {x}是怎样一个人？ 书里写{x}什么？ 有谁叫{x}？ 叫{x}的是谁？ {t}写{x}写了什么？ {x}的来历？ "
    "问问{x}是谁。 {x}是哪个人？ 名叫{x}的是什么人？ 能说说{x}吗？ 帮我介绍{x}这个人物。 {t}有{x}吗？ 听说过{x}吗？ "
    "对{x}知道多少？ {x}算什么人物？",
    "courtesy": "{x}字什么？ {x}的字是什么？ {x}的表字是什么？ {t}{x}字什么？ {x}表字叫什么？ {x}字叫什么？ "
    "说出{x}的字。 {t}{x}的表字叫什么？ {x}的字叫什么？ {x}表字为何？ {x}的字是哪两个字？ {x}取的字是什么？ "
    "说说{x}的字。 写出{x}的表字。 {x}的表字？ {x}有什么字？ 给我{x}的表字。 {x}，字什么？ {t}{x}的字？ {x}取字什么？ "
    "{x}的字怎么写？ 人称{x}字什么？ {x}用什么字？ {x}表字是哪两字？ 知道{x}字什么吗？ {x}的字，是什么？ "
    "{x}这人字什么？ 帮我查{x}的表字。 {x}字哪两个字？ {x}又字什么？ 拿什么作{x}的字？",
    "whose": "谁字{x}？ 字{x}的是谁？ {x}是谁的字？ {t}谁字{x}？ 表字{x}的人是谁？ {x}是谁的表字？ 哪个人字{x}？ "
    "{t}字{x}的是哪个人？ 谁的表字是{x}？ {x}是谁？ {t}{x}指的是谁？ 字{x}的那个人叫什么？ 谁的字叫{x}？ "
    "说出字{x}的人。 {x}这个字是谁的？ {x}是哪位的字？ 有谁字{x}？ {x}这个表字是谁的？ 什么人字{x}？ "
    "帮我查字{x}的人。 {x}说的是谁？ {t}叫{x}的是谁？",
    "alias": "{x}又叫什么？ {x}还有什么名字？ {x}的别名有哪些？ {t}{x}又称什么？ {x}还叫什么？ {x}有哪些称呼？ "
    "{t}{x}还有哪些名字？ 说出{x}的其他称呼。 {x}也叫什么？ {x}的别称是什么？ {t}人们还怎么称呼{x}？ {x}另外叫什么？ "
    "{x}的其他名字是什么？ {x}有没有别的名字？ {x}又有什么称呼？ 别人叫{x}什么？ {x}还被人叫什么？ {x}的又名？ "
    "{x}的别名？ 列出{x}的别名。 {t}{x}又作什么？ 除了{x}，还叫什么？ {x}还称什么？ 怎样另称{x}？",
    "first": "{x}最早在第几回出现？ {x}首次出现在哪一回？ {t}{x}第一次出现在第几回？ {x}在哪一回出场？ "
    "{x}最早见于哪一回？ {x}第几回出场？ 哪一回第一次写到{x}？ {t}{x}哪一回登场？ {x}初次登场是第几回？ "
    "{x}最先出现在哪一回？ 第几回才有{x}？ {x}从第几回起出现？ {t}最早提到{x}是第几回？ 说出{x}首次出现的回数。 "
    "{x}第一次登场在哪回？ 首次写到{x}的是哪一回？ {x}哪回开始出现？",
    "sentence": "哪一句最先写到{x}？ {x}出场的原句是什么？ {t}第一次写{x}的是哪句话？ {x}首次出现的原文是什么？ "
    "引出{x}的是哪一句？ {t}最早提到{x}的原句是什么？ {x}登场时原文怎么写？ 引用最先写到{x}的句子。 "
    "{x}出场的那句话是什么？ 原文里怎么引出{x}？ 写出{x}第一次出现的原句。 {t}{x}出场时是怎么写的？ "
    "首次提{x}的原话是哪句？ 请引用{x}登场的原文。",
    "pair": "哪一句最先同时提到{x}和{y}？ 最早同时写到{x}和{y}的是哪一句？ {x}和{y}的名字最先在哪一句里一同出现？ "
    "{t}哪句话最先提到{x}和{y}两人？ 最早同时写{x}、{y}的原文是什么？ {t}{x}和{y}第一次同句出现在第几回？ "
    "{x}与{y}首次同在一句是哪一回？ 最先把{x}和{y}写在一句里的是第几回？ {x}跟{y}的名字最早在哪一句一起出现？ "
    "第几回首先把{x}与{y}写在一句？ {x}和{y}最早同句的原文怎么写？ 首先同时提到{x}跟{y}的句子是哪句？ "
    "{t}{x}同{y}最先写在一句里是哪里？ 引用最先同时写到{x}和{y}的句子。",
    "title": "{x}的回目是什么？ {x}叫什么？ {x}的标题是什么？ {t}{x}的回目是什么？ "
    "{x}题目是什么？ 说出{x}的回目。 {t}{x}叫什么名字？ {x}回目怎么写？ {x}的题目叫什么？ "
    "写出{x}的标题。 {x}的名字？ {t}{x}标题怎么写？",
    "heading": "“{x}”是第几回？ “{x}”是哪一回的回目？ {t}“{x}”在第几回？ 哪一回叫“{x}”？ “{x}”出自哪一回？ "
    "回目“{x}”是第几回的？ {t}哪一回的回目有“{x}”？ “{x}”见于第几回？ {x}是第几回？ {x}是哪一回？ 标题“{x}”在哪一回？ "
    "说出“{x}”的回数。 第几回的题目是“{x}”？",
    "cast": "{x}有哪些人物？ {x}里有谁？ {x}主要写了谁？ {t}{x}的人物有谁？ "
    "{x}出场的主要人物有哪些？ 哪些人出现在{x}？ {t}{x}写到了哪些人？ 说说{x}的人物。 {x}都有谁？ "
    "{x}讲了哪些人？ 列出{x}的主要人物。",
    "chief": "{t}出现最多的{x}个人物是谁？ 主要人物有哪{x}个？ {t}写得最多的{x}个人是谁？ 说出最主要的{x}个人物。 "
    "{t}最重要的{x}个角色是谁？ 哪{x}个人物出现次数最多？ {t}的{x}大主角是谁？ 前{x}名人物是谁？ "
    "最常出现的{x}个人物是谁？ {t}谁是最主要的{x}个人？",
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
    "title": "请问{x}的题目是怎样的？ {x}的名称是什么？ 告诉我{x}的标题。",
    "heading": "请问“{x}”属于哪一回？ “{x}”这个标题是第几回的？ 题为“{x}”的是哪一回？",
    "cast": "请问{x}都有谁出场？ {x}讲的是哪些人？ {x}中出现了什么人？",
    "chief": "请列出{t}出场最多的{x}个人。 提到次数排在前{x}的人物是谁？",
}

ANSWERS = {  # by kind of fact; {place} is where it stands: 第一回, 楔子
    "courtesy": "{x}字{zi}。",
    "whose": "字{x}的是{names}。",
    "alias": "{x}又称{names}。",
    "who": "{x}，字{zi}。",
    "first": "{x}最早见于{place}。",
    "sentence": "{x}最早见于{place}：「{quote}」。",
    "introduced": "{x}，字{zi}，最早见于{place}：「{quote}」。",
    "pair": "{x}、{y}最早同见于{place}：「{quote}」。",
    "title": "{place}的标题是{lines}。",
    "heading": "「{x}」是{place}的标题。",
    "cast": "{place}主要有{names}。",
    "chief": "按姓名、字和别称数，书中出现最多的{n}人是{names}。",
    "absent": "{x}，书中没有这个人。",
    "absent chapter": "{x}书中没有，全书共{n}。",
}
ABSENT = "书中没有"  # what an answer says about what the book does not have
# Of a talk in which the assistant looks a person up in a table, by kind of question: the column in which it searches,
# and the one that answers.
LOOKED_UP = {"courtesy": "姓名", "whose": "字", "first": "姓名"}
ANSWERED = {"courtesy": "字", "whose": "字", "first": "首见"}


class Words:
    """The words about one book: in its script, and with its word for a chapter."""

    def __init__(self, title: str = "", unit: str = "", script: str = ""):
        """title: of the book, without 《》. unit: of its chapters, as 回; "" where it has none. script: see typed."""
        self.unit, self.script = unit, script
        self.title = self.own(title)
        self.greetings, self.thanks, self.characters = map(self.own, (GREETINGS, THANKS, CHARACTERS))
        self.slips = {self.own(right): [self.own(slip) for slip in slips] for right, slips in SLIPS.items()}
        self.places = ["", "书中", f"《{title}》里"] if title else ["", "书中"]

    def own(self, text: str) -> str:
        """Words of ours, which are simplified, in the book's script."""
        return in_script(text, TRADITIONAL) if self.script == TRADITIONAL else text

    @property
    def absent(self) -> str:
        """What an answer says about what the book does not have."""
        return self.own(ABSENT)

    def answer(self, kind: str, **about: str) -> str:
        """The answer of a kind, filled with what the book says, which stays as it is."""
        template = ANSWERS[kind]
        if kind in ("title", "heading") and about["place"].endswith("回"):
            template = template.replace("标题", "回目")
        if not about.get("place", True):  # a book without chapters
            about["place"] = self.own("这一句")
        return self.own(template).format(**about)

    def as_typed(self, question: str, rng: Random) -> str:
        """A question as somebody may type it: as it is, or politely, or with a slip."""
        right = [words for words in self.slips if words in question]
        if right and rng.random() < SLIPPED:
            words = rng.choice(right)
            before, _, behind = question.rpartition(words)
            question = before + rng.choice(self.slips[words]) + behind
        while rng.random() < GREETED:
            question = self.filler(self.greetings, rng) + rng.choice("，，，！。？") + question
        if rng.random() < THANKED and question.endswith(("？", "。")):
            question += self.filler(self.thanks, rng) + rng.choice("。！")
        return question

    def filler(self, words: str, rng: Random) -> str:
        """One of some words that mean nothing to a question, or a few characters in their place, as a name may be."""
        if rng.random() < UNHEARD:
            return "".join(rng.choices(self.characters, k=rng.choice([1, 2, 3, 4])))
        return rng.choice(words.split())

    def typed_anew(self, question: str, rng: Random) -> str:
        """A question in a way of typing that none of the trained ones has."""
        way = rng.choice(["half width", "spaces", "other script", "greeting", "thanks"])
        if way == "half width":
            return question.translate(HALF_WIDTH) + "?"
        if way == "spaces":
            place = rng.randrange(1, len(question))
            return f" {question[:place]} {question[place:]}"
        if way == "other script":
            return in_script(question, SIMPLIFIED if self.script == TRADITIONAL else TRADITIONAL) + " "
        if way == "greeting":
            return self.own(rng.choice(NEW_GREETINGS.split())) + rng.choice("，！") + question
        return question + self.own(rng.choice(NEW_THANKS.split())) + rng.choice("。！")

    def questions(self, fact: dict, wordings: dict[str, str], leads: list[str], rng: Random) -> list[str]:
        """All questions about a fact that its kind's templates in `wordings` give, the forms of its x in turn.

        They are in random order. leads: what may stand before one.
        """
        templates = wordings[fact["kind"]].split()
        if not self.unit or not fact.get("place", True):
            templates = [template for template in templates if "回" not in template]
        elif self.unit != "回":
            templates = [template.replace("回目", "标题").replace("回", self.unit) for template in templates]
        by_form = []
        for x in fact["x"]:
            asked = {}
            for template in templates:
                place = lead = ""
                if template.startswith("{t}"):
                    place = rng.choice(self.places)
                elif "{t}" in template:
                    place = rng.choice(self.places[1:])
                if template.endswith("？"):
                    lead = rng.choice(leads)
                words = {"x": x, "y": fact.get("y"), "t": self.own(place)}
                question = self.own(template).format(**words).removeprefix("的")  # {t}的{x} without a place
                asked[self.own(lead) + question] = None
            by_form.append(rng.sample(list(asked), len(asked)))
        rng.shuffle(by_form)
        return [question for turn in itertools.zip_longest(*by_form) for question in turn if question]
