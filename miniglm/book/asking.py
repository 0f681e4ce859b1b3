"""The words of questions: what a book tells in their place, and what only makes a question of a text.

meanings()["死因"]           # ["亡", "卒", "薨", …, "#death", "#slain"]
chapter_number("第五十回")    # 50
"""

import functools
import re
from collections.abc import Iterable

from miniglm.book.sections import NUMERAL, number_of
from miniglm.typed import TRADITIONAL, in_script

# ASKED | TOLD | KINDS: what questions ask for, the words by which a book tells it, and the kinds of facts that do.
MEANINGS = """
死 死于 死在 亡 去世 过世 离世 丧命 丧生 送命 | 死 亡 卒 薨 崩 斩 杀 害 刎 缢 绝 归天 病 疮 | death slain
没了 没的 咋没 何时没 怎样没 死去 死法 牺牲 阵亡 | 死 亡 卒 薨 崩 斩 杀 害 刎 缢 绝 归天 病 疮 | death slain
病逝 亡故 离开人世 归宿 性命 结局 下场 死因 身亡 | 死 亡 卒 薨 崩 斩 杀 害 刎 缢 绝 归天 病 疮 | death slain
杀 斩 打死 害死 杀害 杀死 斩杀 刺杀 干掉 刺 砍 手里 手上 之手 打败 结果了 | 斩 杀 刺 砍 害 戮 射死 | slain slew
被谁 是谁杀 是谁斩 谁杀 谁斩 谁杀的 谁杀了 谁斩了 谁砍了 谁射死 被杀 所杀 凶手 | 斩 杀 刺 砍 害 戮 射死 | slain
杀了谁 斩了谁 杀过谁 斩过谁 杀了哪些 谁死在 哪些人死在 之手的 刀下 枪下 取过 | 斩 杀 刺 砍 害 戮 射死 | slew
儿子 孩子 公子 后代 子嗣 长子 大儿子 小儿子 次子 | 子 之子 长子 次子 | sons
儿女 子女 后人 膝下 娃 崽 生了 | 子 之子 长子 次子 | sons
父亲 爸爸 爹 父 老爸 爹爹 老子 令尊 他爹 他爸 生父 爸 | 父 之子 | father
妻子 老婆 夫人 太太 媳妇 嫁 娶 妻 丈夫 老公 夫君 | 妻 夫人 娶 嫁 主妇 | wife husband
爱人 娘子 配偶 妻室 成亲 结婚 夫妻 夫婿 | 妻 夫人 娶 嫁 主妇 | wife husband
兄弟 弟弟 哥哥 弟 兄 弟兄 手足 一母所生 大哥 二哥 | 弟 兄 | brothers
结拜 结义 拜把子 义兄 义弟 | 结义 结为兄弟 | brothers
关系 亲戚 什么亲 算什么亲 一家人 | 子 弟 兄 妻 父 侄 | kin sons father brothers wife
哪里人 哪儿人 什么地方人 何处人 何地人 家乡 老家 籍贯 故乡 | 人也 人氏 | native
祖籍 原籍 出生地 人氏 出身 来自 生长 生在 家住 从哪里来 | 人也 人氏 | native
官 官职 职位 职务 做官 封 拜 当官 官衔 头衔 官位 什么侯 何职 | 封 拜 为 将军 太守 | office
担任 任什么 当过 做过 任过 曾任 | 封 拜 为 将军 太守 | office
兵器 武器 兵刃 家伙 武艺 刀枪 什么刀 什么枪 | 手执 手持 枪 刀 戟 矛 剑 | arms bearer
马 坐骑 战马 骑 | 马 骑 坐下 名为 |
样子 长啥样 相貌 长相 外貌 模样 面貌 身材 长什么样 长得 身高 多高 | 身长 面如 生得 | look
容貌 什么样 生得 形容 描写 好看 | 身长 面如 生得 | look
字 表字 | 字 | courtesy
手下 部下 主公 投靠 跟随 效力 | 归 降 投 主公 |
小名 乳名 小字 外号 绰号 | 小字 乳名 号 |
师父 师傅 | 师 |
皇帝 君主 国君 天子 | 帝 即皇帝位 天子 |
东风 | 东南风 |
"""
# What makes a question of a text, and is not looked for.
QUESTION_WORDS = (
    "请问 告诉我 我想知道 我想了解 我想问 我想 你知道 那么 再问一下 书中 书里 这本书 这部书 里 谁 什么 何 哪 哪个 "
    "哪个人 哪位 哪里 哪儿 怎么 怎样 如何 多少 几 吗 呢 啊 呀 吧 了 的 是 是谁 是什么 的是 在 有 有谁 叫 叫什么 "
    "叫做 被 把 和 与 跟 同 对 说 讲 写 关于 介绍 介绍一下 说说 讲讲 谈谈 说一说 讲一讲 给我 帮我 帮我查 一下 "
    "这个人 那个人 这人 那人 此人 他 她 那他 那她 哪些人 怎么回事 出自 为什么 为何 后来 最后 曾 都 也 还 又 到底 "
    "究竟 知道 认识 听说过 想 请 你好 您好 谢谢 第几回 哪一回 哪回 哪一章 第几章 哪一句 哪句 哪句话 哪一句话 原文 "
    "原句 原话 句子 引用 引出 写出 说出 列出 提到 写到 写 提 讲了 讲什么 写了 用什么 使什么 用 使 拿 算什么 算 "
    "是什么人 什么人物 何许人 名叫 叫的 所有 主要 从 起 才有 来着 什么样的 怎么样 是不是 有没有 我 你 喜欢 应该 "
    "可以 概括 什么人 啥人 以 取 去 为 给 就 才 经过 来龙去脉 "
    "哪种 何种 两人 二人 有个 一个人 怎样一个人 人称 其他 称呼 拿什么作 自我介绍 来个 耍 没 没有 是个 指的是"
)
ASIDE = "回目 标题 题目 名字 名称 内容 讲 叫 写 说 人物 故事"  # of a chapter, its heading tells them
CAST = "有谁 有哪些人 人物 写了谁 写到了哪些人 哪些人 什么人 谁出场"  # of a chapter, what asks who is in it
CAST_ASIDE = "人物"  # stands for them in a search
# Words of questions that ask for somebody.
WHO = (
    "谁 什么人 何人 人物 何许人 哪位 此人 这个人 字 表字 提到 写到 介绍 认识 听说过 别名 又叫 还叫 称呼 哪个人 写 提 "
    "啥人 说说 讲讲 说一说 讲一讲 谈谈 引出 引用 第几回 哪一回 别人叫 关于"
)
OF_SOMEBODY = ("是", "字", "表字", "别名", "外号", "称呼", "句子")  # behind X的 where X is asked for: not 蜀国的皇帝
IN_IT = ("中的", "里的", "裏的", "裡的")  # before X, of a book: 书中的哪吒
SUPPOSED = "如果 假如 要是 万一 翻译 换成 译成"  # in questions that no sentence answers
MARKS = "，。？！：；、“”‘’「」《》…～,.?!:;\"' \u3000"
EARLIEST = "最早 首次 第一次 最先 初次 出场 登场 露面 头一次 第1次 首先 出现"
CHAPTER = re.compile(f"第({NUMERAL}|[0-9]+)[回章节節]")
LAST_CHAPTER = re.compile("(最后|最後|末尾|末|最末)(那|一|1)?[回章节節]")


@functools.cache
def in_both(words: str) -> frozenset[str]:
    """Some words, separated by spaces, in simplified and in traditional characters."""
    return frozenset(f"{words} {in_script(words, TRADITIONAL)}".split())


@functools.cache
def meanings() -> dict[str, list[str]]:
    """{word of a question, in either script: what it stands for in a book, and #KIND for a kind of fact}."""
    found = {}
    for line in MEANINGS.strip().splitlines():
        asked, told, kinds = line.split("|")
        for word in in_both(asked):
            found[word] = [*sorted(in_both(told)), *(f"#{kind}" for kind in kinds.split())]
    return found


def kinds_of(words: Iterable[str]) -> list[str]:
    """The kinds of facts that some words ask for, in their order."""
    said = (meaning for word in words for meaning in meanings().get(word, ()))
    return list(dict.fromkeys(meaning[1:] for meaning in said if meaning.startswith("#")))


def told_by(word: str) -> list[str]:
    """The words by which a book tells what a word of a question asks for."""
    return [meaning for meaning in meanings().get(word, ()) if not meaning.startswith("#")]


def asks_who(question: str) -> bool:
    """Whether a question asks for somebody."""
    return any(word in question for word in in_both(f"{WHO} {EARLIEST}"))


def asks_first(word: str) -> bool:
    """Whether a word asks where something stands first."""
    return word in in_both(EARLIEST)


@functools.lru_cache(maxsize=4096)
def chapter_number(word: str) -> int | None:
    """The number of a chapter that a word names: 50 of 第五十回; None for another word."""
    found = CHAPTER.fullmatch(word)
    return number_of(found[1]) if found else None


def known_words() -> set[str]:
    """All words of questions that are known, in both scripts, and marks."""
    last = (f"{last}{link}{unit}" for last in ("最后", "末") for link in ("一", "那一", "") for unit in "回章")
    return {*meanings(), *in_both(f"{EARLIEST} {ASIDE} {QUESTION_WORDS} {' '.join(last)}"), *MARKS}
