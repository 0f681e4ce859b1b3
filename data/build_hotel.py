"""A desk that finds hotels: writes a table of hotels and talks about them to data/hotel, all of it invented.

    python data/build_hotel.py    # hotels.jsonl, the table; questions.jsonl to train; val.jsonl, eval.jsonl to measure

In a talk the assistant searches the table before it answers, and goes on talking about what it found:

    {"messages": [{"role": "user", "content": "您好，我要找一家舒适型酒店，最好有暖气。"},
                  {"role": "search", "arguments": {"type": "舒适型", "facilities": ["暖气"]}},
                  {"role": "return", "records": [{"name": "…", "price": 328, …}]},
                  {"role": "assistant", "content": "为您推荐…"}, {"role": "user", "content": "价格呢？"}, …]}

What is to be learnt is to read, so most hotels in the talks that are trained are invented for that talk alone. The
talks in eval.jsonl are about hotels that are in none of those: its groups are talks in the words that are trained,
talks in other words, and talks with a facility, a name or a place, looked for or found, that stands in no talk that is
trained.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import Bounds, Natural, Positive, configure
from miniglm.book.wordings import alternatives
from miniglm.files import claim, write_whole
from miniglm.search import search

# -----------------------------------------------------------------------------
dataset = "hotel"  # write to data/DATASET
hotels: Annotated[int, Bounds(20, 2000)] = 400  # in the table; talks that are trained are about half of them
talks: Positive = 12000  # to be trained
eval_talks: Positive = 40  # of each group in eval.jsonl
seed: Natural = 1337  # which hotels there are, and which talks
# -----------------------------------------------------------------------------

TYPES = ("经济型", "舒适型", "高档型", "豪华型")
KINDS = ("酒店", "大酒店", "宾馆", "饭店", "客栈", "公寓")
FACILITIES = """
暖气 行李寄存 吹风机 无线上网 二十四小时热水 西式餐厅 中式餐厅 会议室 无烟房 商务中心 早餐服务 接机服务 洗衣服务 租车
叫醒服务 健身房 室内泳池 桑拿 棋牌室 免费停车 充电桩 儿童乐园 酒吧 咖啡厅 屋顶花园 电梯 残疾人设施 国际长途电话 美容美发
温泉 宠物寄养 保险箱 空气净化器 影音室 自助厨房 送餐服务 自行车出租 加湿器 书房 网球场
"""
NAMES = """
云栖 汀兰 望江 听雨 松涛 白鹭 青藤 晨曦 银杏 碧波 石桥 竹里 锦程 和风 海棠 南浦 鹤鸣 枫林 雅居 长乐
瑞安 星河 东篱 半山 清欢 玉兰 万象 金桂 柳岸 紫荆 翠微 归云 朗庭 荷塘 沁园 尚品 悦来 同福 橙子 锦瑟
"""
DISTRICTS = "东湖区 西岭区 北桥区 南港区 城关区 新塘区 江口区 临河区 高新区 古城区"
STREETS = """
人民路 解放街 滨河大道 文化路 桃花巷 学院路 钟楼街 望海路 建设路 梅园街
花溪路 鼓楼巷 长安街 青年路 双桥路 枣林街 灯市口 明德路 金沙街 石榴巷
"""
STATIONS = """
中心广场 火车东 体育馆 植物园 图书馆 大学城 博物馆 动物园 市民中心 老城门
科技园 会展中心 南湖公园 钟鼓楼 国际机场 北码头 人民医院 梧桐苑 龙泉寺 丽水湾
"""
COMMONEST = [bytes((row, cell)).decode("gb2312") for row in range(0xB0, 0xD7) for cell in range(0xA1, 0xFA)]

# What the guest says: templates between spaces, (a|b) is either. First what is trained, then what only eval.jsonl has.
OPENERS = ("(您好，|你好，|请问，|麻烦您，|嗨，|早上好，|问一下，|不好意思，||||)", "(劳驾，|打扰一下，|前台您好，)")
WISHES = (
    "(我要|我想|帮我)找一家{type}酒店(|住宿) (|请)(给我|帮我)推荐一家{type}酒店"
    " (我想订|想住)一家{type}的酒店 有没有{type}(的|)酒店 (来|要|找|订)(个|间|一间){type}的酒店"
    " (今晚|明天|周末)(想|要)住{type}(的|)酒店 {type}(的|)酒店有吗 {type}酒店(，谢谢|)",
    "(替我|)(物色|挑)(个|一家){type}(的|)酒店 出差要住{type}酒店 哪里有{type}的酒店",
)
WITH = {
    "facilities": (
        "(希望酒店|最好|要)(提供|有|能有){facilities} (要|需要|希望)带{facilities}(的|)"
        " (得|应该|一定要)有{facilities} {facilities}(要有|得有|是要的) 没有{facilities}(不行|可不行)"
        " 配{facilities}(的|) (我|我们)(要用|想用|喜欢){facilities}",
        "(必须|一定)配有{facilities} 少不了{facilities} {facilities}不能少",
    ),
    "price_range_upper": (
        "价格(不超过|最多){price_range_upper}元 (预算|价格在){price_range_upper}元以(内|下)"
        " 每晚{price_range_upper}元以下 (不要超过|最贵){price_range_upper}(块|元) (房费|一天){price_range_upper}块以下"
        " (只有|我出得起){price_range_upper}块(钱|)",
        "一晚上(别超过|不要高于){price_range_upper}块 {price_range_upper}块钱以内",
    ),
    "rating_range_lower": (
        "评分(要在|在|要){rating_range_lower}分以上 评分不低于{rating_range_lower}分"
        " (打分|评价)(要|得|在){rating_range_lower}分以上 (最少|至少)要{rating_range_lower}分"
        " {rating_range_lower}分(起|往上)",
        "(大家|网上)打分至少{rating_range_lower}分 口碑要{rating_range_lower}分往上",
    ),
    "subway": (
        "(离|靠近){subway}(近一点|近的) 在{subway}附近 {subway}(旁边|边上|那里)(的|) (从|到){subway}(走|走路)(能|就)到"
        " 要在{subway}",
        "出门就是{subway} 挨着{subway}",
    ),
}
NAMED = (
    "(我想住|帮我查查|想了解一下|请问有没有){name} (帮我订|我要订){name} {name}(好不好|有吗|怎样) 看看{name}",
    "{name}(还有房吗|怎么样) 听说{name}不错",
)
ASKED = {
    "price": (
        "(这家酒店的|)价格是多少 (住|)一晚多少钱 多少钱一晚 价格呢 (要|得)多少钱 (一天|一夜)几块"
        " (价钱|费用)(呢|多少) 贵吗",
        "(房费|房价)(怎么算|几何|多少) 贵不贵，一晚几块",
    ),
    "phone": (
        "(酒店的|它的|)电话是多少 怎么(打电话|联系)(过去|他们) 有电话吗 (留个电话|电话呢)"
        " 号码(呢|多少) (给我|告诉我)电话",
        "号码(告诉我一下|给我) 打哪个号码订",
    ),
    "address": (
        "(酒店的|它的|)地址(在哪|是什么|呢) (它|酒店)在(哪里|什么地方) 位置(呢|在哪) (怎么|从哪)(去|走) 在哪条路",
        "具体位置(说一下|在哪) 打车过去怎么说",
    ),
    "subway": (
        "附近有地铁(站|)吗 (离|最近的)地铁站是哪个 坐地铁到哪一站 地铁(呢|怎么坐|在哪里) 哪个站下",
        "地铁(方便吗|坐到哪里下)",
    ),
    "rating": (
        "评分(是多少|怎么样|高吗) (大家|客人)评价(如何|怎么样) 多少分 (口碑|打分)(呢|是多少) 几分",
        "口碑(好不好|如何) 得了几分",
    ),
    "has": (
        "有没有{facility}(呢|) (有|提供){facility}吗 {facility}有吗 {facility}呢"
        " (里面|店里)有{facility}(吗|没有) 可以用{facility}吗",
        "能用{facility}吗 {facility}这项有没有",
    ),
}
CLOSING = ("(好的|行|可以)，(就|那就)(预订|订){name}(吧|) (就|)(住|选){name}吧", "(定|拍板)了，{name}")
THANKS = ("谢谢 (多|)谢了 麻烦你了 好的，谢谢", "(太感谢|辛苦)了 有劳")
ANSWERS = {
    "found": "为您推荐{name}，{type}，每晚{price}元，评分{rating}分。",
    "none": "抱歉，没有找到这样的酒店。要不要换个条件？",
    "price": "{name}每晚{price}元。",
    "phone": "{name}的电话是{phone}。",
    "address": "{name}在{address}。",
    "subway": "离{name}最近的是{subway}。",
    "rating": "{name}的评分是{rating}分。",
    "has": "有的，{name}有{facility}。",
    "lacks": "没有，{name}没有{facility}。",
    "booked": "好的，祝您在{name}入住愉快！",
    "thanks": "不客气，祝您旅途愉快！",
}
JOINED = ("和", "与", "、", "以及")
MANY = (3, 4, 5, 6)  # questions about a hotel: the more, the oftener each record is read
USUAL, NEW = 0, 1  # which of a list's wordings are said


def invented(rng, least=2, most=4):
    """A word that nobody has heard of."""
    return "".join(rng.choices(COMMONEST, k=rng.randint(least, most)))


class Lists:
    """What a hotel can have: all words, or only those that may stand in talks that are trained, nine of ten."""

    def __init__(self, known: bool):
        lists = (FACILITIES, NAMES, DISTRICTS, STREETS, STATIONS)
        lists = [[word for word in words.split() if not known or word not in new_words(words)] for words in lists]
        self.facilities, self.names, self.districts, self.streets, self.stations = lists


def new_words(words: str) -> list[str]:
    """Those of a list that stand in no talk that is trained."""
    return words.split()[9::10]


KNOWN, ALL = Lists(known=True), Lists(known=False)


def draw_hotel(rng, lists: Lists, strange: float = 0.0) -> dict:
    """A hotel. strange: how likely each of its words is invented."""

    def word(words):
        return invented(rng) if rng.random() < strange else rng.choice(words)

    facilities = list(dict.fromkeys(word(lists.facilities) for _ in range(rng.randint(3, 7))))
    names = dict.fromkeys(word(lists.names) for _ in range(2 if rng.random() < 0.3 else 1))
    return {
        "name": "".join(names) + rng.choice(KINDS),
        "type": rng.choice(TYPES),
        "address": f"{word(lists.districts)}{word(lists.streets)}{rng.randint(1, 399)}号",
        "subway": f"{word(lists.stations)}站{rng.choice('ABCD')}口",
        "phone": f"0{rng.randint(10, 99)}-{rng.randint(10_000_000, 99_999_999)}",
        "facilities": facilities,
        "price": rng.randint(80, 1600),
        "rating": rng.randint(30, 50) / 10,
    }


def draw_call(rng, hotel: dict) -> dict:
    """What somebody asks for who would be content with a hotel."""
    if rng.random() < 0.2:
        return {"name": hotel["name"]}
    facilities = rng.sample(hotel["facilities"], min(len(hotel["facilities"]), rng.choice([1, 1, 2])))
    wishes = {
        "type": hotel["type"],
        "subway": hotel["subway"].partition("站")[0] + "站",
        "facilities": facilities,
        "price_range_upper": -(-hotel["price"] // 50) * 50 + rng.choice([0, 0, 50, 100]),
        "rating_range_lower": hotel["rating"] - rng.choice([0, 0.1, 0.2]),
    }
    wishes["rating_range_lower"] = round(wishes["rating_range_lower"], 1)
    count = rng.choice([1, 2, 2, 3])
    chosen = rng.choices(list(wishes), weights=[3, 1, 4, 2, 2], k=count)
    return {field: wish for field, wish in wishes.items() if field in chosen}


def worded(rng, wordings: tuple[str, str], how: int, **about) -> str:
    """One of the wordings, filled. how: USUAL or NEW."""
    return rng.choice([said for each in wordings[how].split() for said in alternatives(each)]).format(**about)


def request(rng, call: dict, how: int) -> str:
    """What a guest says who asks for `call`."""
    opener = worded(rng, OPENERS, how)
    if "name" in call:
        return f"{opener}{worded(rng, NAMED, how, **call)}。"
    filled = call | {"facilities": rng.choice(JOINED).join(call.get("facilities", []))}
    said = [worded(rng, WISHES, how, type=call.get("type", "")).replace("一家的", "一家").replace("有的", "有")]
    said += [worded(rng, WITH[field], how, **filled) for field in call if field != "type"]
    return opener + "，".join(said) + rng.choice("。。？")


def draw_talk(rng, find, hotel: dict, lists: Lists, how: int = USUAL) -> list[dict]:
    """A talk that begins with a wish that `hotel` fulfils. find(call) gives the records that the table has for it."""
    messages = []

    def say(role, content):
        messages.append({"role": role, "content": content})

    def look(call):
        say("user", request(rng, call, how))
        found = find(call)
        messages.append({"role": "search", "arguments": call})
        messages.append({"role": "return", "records": found})
        say("assistant", ANSWERS["found"].format(**found[0]) if found else ANSWERS["none"])
        return found

    found = look(draw_call(rng, hotel))
    if not found:
        found = look(draw_call(rng, hotel))
    for kind in rng.sample(list(ASKED), rng.choice(MANY)) if found else ():
        facility = rng.choice(found[0]["facilities"] if rng.random() < 0.5 else lists.facilities)
        say("user", worded(rng, ASKED[kind], how, facility=facility) + rng.choice("？？。"))
        if kind == "has" and facility not in found[0]["facilities"]:
            kind = "lacks"
        say("assistant", ANSWERS[kind].format(**found[0], facility=facility))
    if found and rng.random() < 0.4:
        say("user", worded(rng, CLOSING, how, **found[0]) + "。")
        say("assistant", ANSWERS["booked"].format(**found[0]))
    elif rng.random() < 0.3:
        say("user", worded(rng, THANKS, how) + rng.choice("。！"))
        say("assistant", ANSWERS["thanks"])
    return messages


def trained_talks(rng, table: list[dict], kept_out: set[str]) -> Iterator[list[dict]]:
    """Talks to be trained: one of four about the table, the others about hotels that are invented for each.

    kept_out: names that none of those has.
    """
    while True:
        if rng.random() < 0.25:
            yield draw_talk(rng, lambda call: search(table, json.dumps(call)), rng.choice(table), KNOWN)
            continue
        strange = rng.choice([0, 0.3, 0.8])
        hotel = draw_hotel(rng, KNOWN, strange)
        if hotel["name"] in kept_out:
            continue
        asked = hotel if rng.random() < 0.9 else draw_hotel(rng, KNOWN, strange)
        if asked["name"] in kept_out:
            continue
        yield draw_talk(rng, lambda call, hotel=hotel: search([hotel], json.dumps(call)), asked, KNOWN)


def words_of(turn: dict) -> str:
    """What a turn says, as a text."""
    said = turn.get("content") or turn.get("arguments") or turn.get("records") or []
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def stands_in(talk: list[dict], words: set[str]) -> bool:
    """Whether one of some words is searched for, or found, in a talk."""
    looked = "".join(words_of(turn) for turn in talk if turn["role"] in ("search", "return"))
    return any(word in looked for word in words)


def draw_table(rng, count: int, lists: Lists, taken: set[str]) -> list[dict]:
    """Hotels of different names, which are added to `taken`."""
    table = []
    while len(table) < count:
        hotel = draw_hotel(rng, lists)
        if hotel["name"] not in taken:
            taken.add(hotel["name"])
            table.append(hotel)
    return table


def evaluated_talks(rng, table: list[dict], unseen: list[dict], how: int) -> Iterator[list[dict]]:
    """Talks in which only hotels are found that are not trained."""
    there = [hotel["name"] for hotel in unseen]
    while True:
        talk = draw_talk(rng, lambda call: search(table, json.dumps(call)), rng.choice(unseen), ALL, how)
        found = [hotel["name"] for turn in talk if turn["role"] == "return" for hotel in turn["records"]]
        if set(found) <= set(there):
            yield talk


configure(globals())
target = Path("data", dataset)
claim(target)
rng, taken = random.Random(seed), set()
known = draw_table(rng, hotels // 2, KNOWN, taken)
unseen = draw_table(rng, hotels - len(known), ALL, taken)
table = rng.sample(known + unseen, hotels)
new = {word for words in (FACILITIES, NAMES, DISTRICTS, STREETS, STATIONS) for word in new_words(words)}
training = list(islice(trained_talks(rng, known, {hotel["name"] for hotel in unseen}), talks + eval_talks))
usual = (talk for talk in evaluated_talks(rng, table, unseen, USUAL) if not stands_in(talk, new))
reworded = (talk for talk in evaluated_talks(rng, table, unseen, NEW) if not stands_in(talk, new))
strange = (talk for talk in evaluated_talks(rng, table, unseen, USUAL) if stands_in(talk, new))
groups = {"hotels": usual, "new_wording": reworded, "new_words": strange}
files = {
    "hotels": table,
    "questions": [{"messages": talk} for talk in training[eval_talks:]],
    "val": [{"messages": talk} for talk in training[:eval_talks]],
    "eval": [{"messages": talk, "Group": group} for group in groups for talk in islice(groups[group], eval_talks)],
}
for file, records in files.items():
    with write_whole(target / f"{file}.jsonl") as out:
        out.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in records)
    print(f"{target / file}.jsonl: {len(records):,} records")
# What the tokenizer is learnt from has no digits: each stays a token of its own, and a number is copied digit by digit.
with write_whole(target / "input.txt") as out:
    for talk in training[eval_talks:]:
        out.writelines(re.sub(r"\d", "", words_of(turn)) + "\n" for turn in talk)
