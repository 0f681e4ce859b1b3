"""The names that readers have for episodes of a book, and the words by which each is found in it.

A line is NAMES | WORDS | PEOPLE: what the episode is called, a piece of a heading or of the text that it alone has, and
who is in it. A line counts only where the book bears it out: it has the words, in one section alone, and names
everybody there.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from miniglm.book.mentions import SENTENCE
from miniglm.book.sections import Section

EPISODES = {
    "sanguo": """
桃园结义 桃园三结义 桃园誓盟 | 念刘备、关羽、张飞，虽然异姓 | 刘备 关羽 张飞
怒鞭督邮 鞭打督邮 | 张翼德怒鞭督邮 | 张飞
曹操献刀 孟德献刀 行刺董卓 | 谋董贼孟德献刀 | 曹操 董卓
捉放曹 | 宁教我负天下人 | 曹操 陈宫
温酒斩华雄 斩华雄 | 酒尚温时斩华雄 | 关羽 华雄
三英战吕布 虎牢关之战 | 破关兵三英战吕布 | 刘备 关羽 张飞 吕布
凤仪亭 大闹凤仪亭 | 董太师大闹凤仪亭 | 吕布 董卓 貂蝉
连环计 美人计 | 王司徒巧使连环计 | 王允 貂蝉 董卓 吕布
三让徐州 | 陶恭祖三让徐州 | 陶谦 刘备
辕门射戟 | 吕奉先射戟辕门 | 吕布 纪灵
望梅止渴 | 由是不渴 | 曹操
白门楼 白门楼殒命 | 白门楼吕布殒命 | 吕布 曹操
煮酒论英雄 青梅煮酒 青梅煮酒论英雄 | 曹操煮酒论英雄 | 曹操 刘备
击鼓骂曹 裸衣骂曹 | 祢正平裸衣骂贼 | 祢衡 曹操
衣带诏 | 董国舅内阁受诏 | 董承
约三事 土山约三事 | 屯土山关公约三事 | 关羽 张辽
斩颜良诛文丑 诛文丑 | 将文丑斩下马来 | 关羽
千里走单骑 | 美髯公千里走单骑 | 关羽
过五关斩六将 五关斩将 | 汉寿侯五关斩六将 | 关羽
古城会 古城相会 | 会古城主臣聚义 | 关羽 张飞
官渡之战 | 战官渡本初败绩 | 曹操 袁绍
火烧乌巢 乌巢劫粮 | 劫乌巢孟德烧粮 | 曹操 许攸
马跃檀溪 跃马过檀溪 | 刘皇叔跃马过檀溪 | 刘备
三顾茅庐 三顾草庐 | 刘玄德三顾草庐 | 刘备 诸葛亮
隆中对 隆中决策 | 定三分隆中决策 | 诸葛亮 刘备
火烧博望坡 博望坡之战 火烧博望 | 博望坡军师初用兵 | 诸葛亮 夏侯惇
火烧新野 | 诸葛亮火烧新野 | 诸葛亮
单骑救主 救阿斗 长坂坡救阿斗 长坂坡救主 | 赵子龙单骑救主 | 赵云
长坂坡之战 大闹长坂桥 喝断当阳桥 据水断桥 | 张翼德大闹长坂桥 | 张飞 曹操
舌战群儒 | 诸葛亮舌战群儒 | 诸葛亮
智激周瑜 | 孔明用智激周瑜 | 诸葛亮 周瑜
群英会 蒋干盗书 蒋干中计 | 群英会蒋干中计 | 周瑜 蒋干
草船借箭 借箭 | 用奇谋孔明借箭 | 诸葛亮 鲁肃
苦肉计 | 献密计黄盖受刑 | 黄盖 周瑜
诈降书 阚泽献书 | 阚泽密献诈降书 | 阚泽 曹操
巧授连环计 庞统献连环计 | 庞统巧授连环计 | 庞统 曹操
横槊赋诗 | 宴长江曹操赋诗 | 曹操
借东风 祭东风 七星坛祭风 | 七星坛诸葛祭风 | 诸葛亮 周瑜
赤壁之战 火烧赤壁 赤壁大战 | 三江口周瑜纵火 | 周瑜 曹操 诸葛亮 黄盖
华容道 义释曹操 捉曹放曹 | 关云长义释曹操 | 关羽 曹操
一气周瑜 | 孔明一气周公瑾 | 诸葛亮 周瑜
甘露寺 刘备招亲 甘露寺招亲 | 吴国太佛寺看新郎 | 刘备
二气周瑜 赔了夫人又折兵 | 孔明二气周公瑾 | 诸葛亮 周瑜
三气周瑜 | 孔明三气周公瑾 | 诸葛亮 周瑜
卧龙吊孝 柴桑口吊孝 | 柴桑口卧龙吊丧 | 诸葛亮
割须弃袍 | 曹阿瞒割须弃袍 | 曹操 马超
裸衣斗马超 | 许褚裸衣斗马超 | 许褚 马超
截江夺阿斗 | 赵云截江夺阿斗 | 赵云
落凤坡 | 庞军师被张任在落凤坡前 | 庞统 张任
义释严颜 | 张翼德义释严颜 | 张飞 严颜
单刀赴会 | 关云长单刀赴会 | 关羽 鲁肃
威震逍遥津 逍遥津之战 | 张辽威震逍遥津 | 张辽
百骑劫营 百骑劫魏营 | 甘宁百骑劫魏营 | 甘宁
定军山之战 计斩夏侯渊 | 占对山黄忠逸待劳 | 黄忠 夏侯渊
水淹七军 | 关云长放水淹七军 | 关羽 于禁 庞德
刮骨疗毒 刮骨疗伤 | 关云长刮骨疗毒 | 关羽 华佗
白衣渡江 | 吕子明白衣渡江 | 吕蒙
走麦城 败走麦城 | 关云长败走麦城 | 关羽
玉泉山显圣 | 玉泉山关公显圣 | 关羽
七步诗 七步成诗 | 兄逼弟曹植赋诗 | 曹植 曹丕
火烧连营 夷陵之战 火烧连营七百里 | 陆逊营烧七百里 | 陆逊 刘备
八阵图 | 孔明巧布八阵图 | 诸葛亮 陆逊
白帝城托孤 刘备托孤 | 刘先主遗诏托孤儿 | 刘备 诸葛亮
七擒孟获 七纵七擒 | 七擒孟获 | 诸葛亮 孟获
出师表 上出师表 | 臣亮言 | 诸葛亮
收姜维 智收姜维 | 姜伯约归降孔明 | 诸葛亮 姜维
骂死王朗 | 武乡侯骂死王朗 | 诸葛亮 王朗
失街亭 失守街亭 | 马谡拒谏失街亭 | 马谡
空城计 摆空城计 | 武侯弹琴退仲达 | 诸葛亮 司马懿
挥泪斩马谡 斩马谡 | 孔明挥泪斩马谡 | 诸葛亮 马谡
木牛流马 | 造木牛流马 | 诸葛亮
火烧上方谷 上方谷之战 | 上方谷司马受困 | 司马懿 诸葛亮
五丈原 秋风五丈原 禳星 | 五丈原诸葛禳星 | 诸葛亮
死诸葛吓走活仲达 死诸葛走生仲达 | 见木像魏都督丧胆 | 诸葛亮 司马懿
偷渡阴平 | 邓士载偷度阴平 | 邓艾
乐不思蜀 | 不思蜀 | 刘禅
三国归晋 三分归一统 | 降孙皓三分归一统 | 孙皓
"""
}


class Episode(NamedTuple):
    """A part of a book that readers have a name for."""

    names: list[str]
    place: str  # the label of its section
    words: str  # a piece of the heading or of the text, as the book has it
    sentence: str  # in which that stands
    people: list[str]


def episodes_in(sections: Sequence[Section], lines: str, named_in: Callable[[str, str], bool]) -> Iterator[Episode]:
    """The episodes of some lines, see above, that a book bears out. named_in(person, text): whether it names them."""
    for line in filter(None, map(str.strip, lines.splitlines())):
        names, words, people = (part.strip() for part in line.split("|"))
        found = [section for section in sections if any(words in title for title in section.title)]
        found = found or [section for section in sections if words in section.text]
        if len(found) != 1 or not found[0].label:
            continue
        (section,) = found
        text = "".join(section.title) + section.text
        if all(named_in(person, text) for person in people.split()):
            sentence = line = next((title for title in section.title if words in title), "")
            if not line:
                line = clause_of(section.text, words)
                sentence = next(each for each in re.findall(SENTENCE, section.text) if words in each)
            yield Episode(names.split(), section.label, line, sentence, people.split())


def clause_of(text: str, words: str) -> str:
    """The clauses of a text in which some words stand."""
    position = text.index(words)
    begin = max(text.rfind(mark, 0, position) for mark in "，。！？；：“”\n") + 1
    end = re.compile("[，。！？；：“”\n]").search(text, position + len(words))
    return text[begin : end.start() if end else len(text)]
