"""What people type beside questions about a book, and what a model says to it: courtesies, and that it cannot answer.

Every table is a small grammar, see wordings.alternatives; some of its wordings are only asked in eval.jsonl.
"""

import re
from collections.abc import Iterator
from random import Random

from miniglm.book.wordings import Words, alternatives

COURTESIES = {  # by answer: what is typed
    "hello": "(你|您)好(呀|啊|哦|哈|哇|，小助手|，机器人|，朋友|，初次见面|，我是小{n}|，我叫{n})(！|。|～|) "
    "(嗨|哈喽|哈啰|嘿|hello|hi|hey|Hi|Hello|HELLO)(，你好|，朋友|呀|！|) "
    "(早|早上好|上午好|中午好|下午好|晚上好|早安|午安)(呀|啊|！|。|) "
    "(大家|老师|同学|各位|小朋友|师傅|先生)好(！|。|) "
    "(初次见面|很高兴认识你|认识你很高兴|久仰|幸会)(！|，请多关照|) "
    "(我来了|我回来了|好久不见|又见面了|来聊聊吧|聊聊天吧|聊会儿天|陪我聊聊|我们开始吧|可以开始了吗)(！|。|？|)",
    "here": "(在不在|在么|有人吗|有人在吗|人呢|在线吗|你在吗|还在吗|能听到吗|听得到吗|醒着吗|忙吗|有空吗|方便吗|"
    "可以问你吗|能问个问题吗|可以提问吗|我可以问你问题吗|我想问个问题|我有个问题)(？|。|！|)",
    "bye": "(拜拜|拜|再会|回头见|明天见|下次见|下次再聊|改天再聊|先走了|我走了|我先走了|不聊了|我要睡了|晚安|告辞|"
    "bye|byebye|goodbye|88|退出|结束|就到这里|今天就到这里|没有问题了|没别的了)(！|。|～|啦|了|)",
    "thanks": "(谢谢|多谢|感谢|谢了|谢谢你|谢谢您|非常感谢|太感谢了|十分感谢|谢谢啦|谢啦|thanks|thank "
    "you|Thanks|3q|辛苦了|麻烦你了|有劳)(！|。|～|啊|你的回答|你的帮助|)",
    "praise": "(真棒|厉害|你真厉害|太棒了|不错|很好|你真聪明|回答得好|说得对|答对了|真不错|牛|666|原来如此|有意思|"
    "明白了|懂了)(！|。|～|啊|呀|)",
    "sorry": "(对不起|抱歉|不好意思|打扰了|打扰你了|我错了|别生气|打搅了)(！|。|啊|)",
    "who": "你(是谁|是什么|是什么人|是干什么的|是做什么的|是哪位|是哪个|算什么|到底是谁|究竟是谁)(呀|啊|呢|)(？|) "
    "(介绍|说说|讲讲)(一下|)(你自己|自己)(吧|。|) (自我介绍|做个自我介绍|来个自我介绍)(一下|吧|)(。|) "
    "(怎么|如何|该怎么)(称呼你|叫你|称呼您|称呼)(？|) "
    "(请问|)(你|您)(贵姓|姓什么|叫啥|怎么称呼|的名字是什么|的名字|名字是啥|有名字吗)(？|) "
    "你是(人|真人|机器|机器人|人工智能|AI|ai|程序|电脑|模型|大模型|语言模型|ChatGPT|GPT|什么模型|哪家的模型)(吗|"
    "还是机器|)(？|) "
    ""
    "(谁|哪个公司|什么人)(做的|造的|开发的|训练的|做出|创造了)(你|)(？|) "
    "你(几岁|多大|多少岁|从哪里来|住在哪里|什么时候出生|是男的还是女的|有多少参数|是怎么训练的|读过什么书|"
    "看过哪些书|读过几本书)(了|)(？|)",
    "able": "你(能|可以|会|懂)(做什么|干什么|干嘛|些什么|做些什么|回答什么|帮我做什么|帮我什么|啥|聊什么|"
    "聊些什么)(呢|呀|啊|)(？|) "
    "(能|可以|我能|我可以)(问你什么|问你些什么|问什么|问哪些问题|和你聊什么)(？|) "
    "(我|)(该|应该|要|能)(问|怎么问|问你)(什么|些什么|你|)(呢|)(？|) "
    "(有什么|有哪些)(功能|本领|本事|能耐|问题可以问)(？|) (怎么|如何)(用|使用)(你|)(？|) "
    "(帮助|help|Help|HELP|说明|使用说明|菜单|教程|怎么玩|怎么用|举个例子|给个例子|给几个例子|示例)(！|。|？|) "
    "你(知道|懂|了解)(什么|些什么|哪些事|哪些东西)(？|) 你(擅长|会回答)(什么|哪些问题)(？|)",
}
BEYOND = (  # what is beyond the book, or no question at all; {x} and {y} are people of the book
    "(谁|哪个|哪个人|哪位)(最强|最聪明|最帅|最坏|最忠心|最勇敢|最会打仗|武功最高|最有智慧|最值得学习|更厉害|"
    "长得最好看|最可怜|最了不起|功劳最大|最残忍)(呀|啊|)(？|) "
    ""
    "你(最|)(喜欢|讨厌|佩服|欣赏|支持|看好|崇拜)(的|)(哪个|什么人|哪个人物|哪一个|{x}吗|{x}还是{y}|人是谁|"
    "角色是谁)(呢|)(？|) "
    "你(觉得|认为|看|说)({x}|{x}这个人)(怎么样|如何|聪明吗|厉害吗|是好人吗|坏吗|忠诚吗|勇敢吗|傻不傻|做得对吗|"
    "可惜吗|后悔吗)(？|) "
    ""
    "{x}(和|与|跟|还有){y}(谁|哪个)(更|)(厉害|聪明|强|帅|高|能打|重要|好|忠心)(？|) "
    "{x}(是|算)(好人|坏人|英雄|奸臣|忠臣|君子|小人)(还是坏人|吗|还是奸臣|还是小人)(？|) "
    "(怎么|如何|怎样)(评价|看待|理解|分析){x}(这个人|的一生|的性格|)(？|) "
    "(为什么|为何|凭什么)({x}|{x}会|{x}要|{x}不|{x}没有|{x}没能){c}(呢|)(？|) "
    "{x}(为什么|为何)(会|要|不|没|没能|不能|){c}(？|) "
    "(如果|假如|要是|万一){x}(没有死|活着|当了皇帝|赢了|没{c}|不{c})(会怎么样|会怎样|，结果会怎样|呢)(？|) "
    "{x}(后悔|伤心|高兴|幸福|孤独|害怕)(吗|过吗|不后悔吗)(？|) "
    "{x}(喜欢|爱|讨厌)(吃什么|喝什么|什么颜色|看书吗|睡觉吗|小孩吗)(？|) "
    "{x}(有多少钱|会游泳吗|会开车吗|用手机吗|上过学吗|体重多少|血型是什么|是什么星座|的生日是哪天|有微信吗) "
    "(这本书|这部书|{t})(好看吗|写得好吗|有意思吗|的主题是什么|想说明什么道理|表达了什么思想|告诉我们什么|"
    "适合小孩读吗|有什么艺术特色|难读吗|改编过电影吗|的中心思想是什么)(？|) "
    "(谈谈|说说|写写)(你的看法|读后感|感想|体会|理解)(吧|。|) "
    "(今天|明天|现在|后天|昨天)(天气怎么样|天气如何|下雨吗|星期几|几号|是几月几日|热不热|股票涨了吗|有什么新闻)(？|) "
    "(现在|北京现在|此刻)(几点|是几点|几点了)(？|) "
    "{a}(＋|加|减|乘|除以|×|-|\\*|乘以|加上)({b})(等于多少|是多少|得几|＝？|=？|)(？|) "
    "(计算|算一下|算算|帮我算){a}(加|减|乘|除以|\\+|-){b}(。|) "
    "(写|作|编|帮我写|给我写|请写)(一首|首|一篇|篇|一段|段|个)(诗|作文|故事|歌词|小说|情书|代码|程序|检讨书|邮件|"
    "日记|广告)(吧|。|) "
    "(讲|说|来)(个|一个)(笑话|故事|谜语|段子|鬼故事)(吧|听听|。|) (唱|来)(首歌|一首歌)(吧|。|) "
    "(用|写)(C|Java|C\\+\\+|python|js|JavaScript|Go|SQL)(写个|写一个|语言写|)(排序|程序|网页|爬虫|游戏|循环)(。|) "
    "(把|请把|帮我把)(“|){w}(”|)(翻译成|译成|换成)(英文|英语|日语|法语|白话|现代汉语)(。|) "
    "(翻译|翻译一下|英语怎么说)(：|，|){w} "
    "(中国|美国|日本|法国|英国|德国|俄罗斯)的(首都|总统|人口|面积|国歌|国旗)(是什么|是谁|是多少|在哪|是哪里)(？|) "
    "(太阳|月亮|地球|大海|天空|彩虹|恐龙|鲸鱼|蚂蚁|电脑|飞机|火车)(为什么|是怎么|怎么|有多)(会发光|是蓝的|形成的|"
    "来的|大|远|灭绝的|飞起来的)(？|) "
    ""
    "(推荐|介绍)(几部|一部|一本|几本|一首|一家)(电影|书|歌|饭馆|电视剧|游戏|手机|小说)(吧|给我|。|) "
    "(怎么|如何|怎样)(减肥|赚钱|学英语|做饭|做红烧肉|追女孩|修电脑|戒烟|睡得好|考上大学|炒股|养猫|找工作)(？|) "
    "(感冒|头疼|失眠|发烧|咳嗽)(了|)(怎么办|吃什么药|要看医生吗)(？|) "
    "(微信|支付宝|抖音|淘宝|手机|电脑|空调|地铁|飞机|电视|汽车)(是什么|怎么用|是谁发明的|好用吗|坏了怎么办)(？|) "
    "(帮我|给我|请帮我)(订|买|叫|查|找)(一张票|机票|外卖|个车|一下快递|酒店|电影票|东西)(吧|。|) "
    "(放|播放|打开|关闭|关掉)(音乐|电视|灯|空调|窗户|窗帘|导航)(。|) "
    "(我|最近我|今天我)(好累|好无聊|不开心|失恋了|很烦|睡不着|饿了|生病了|想哭|压力好大|很难过|心情不好)(啊|呀|。|"
    "，怎么办|) "
    "(你|)(吃饭了吗|吃了吗|睡了吗|会做梦吗|有感情吗|爱我吗|会死吗|有女朋友吗|开心吗|累不累|讨厌我吗|会生气吗|"
    "相信爱情吗)(？|) "
    "(你是笨蛋|笨蛋|傻瓜|你真笨|滚|闭嘴|无聊|垃圾|胡说|胡说八道|骗人)(！|。|) "
    "(然后呢|后来呢|接着呢|再后来呢|为什么|为啥|为什么呢|怎么会|真的吗|真的|是吗|你确定吗|确定|什么意思|什么|啥|"
    "继续|接着说|说下去|再说一遍|再来一个|换一个|还有吗|别的呢|另外呢|举例说明|具体点|详细点|说详细些|能说清楚点吗|"
    "说错了|错了|你说错了|不是这样|不对吧|我不信|不信|那又怎样|所以呢|结果呢|那她呢|那他们呢|那个呢|这个呢|"
    "那个人呢|是哪个|哪一个|另一个呢|第一个呢|前面那个)(？|。|！|)"
)
SENTENCES = (  # in other languages
    "(What|Who|Where) is (this|the book|that man|your name|the weather|love|the capital of France|he)? "
    "(Tell|Show|Give) me (about|something about) (the book|yourself|China|the war)(\\.|) Can you "
    "(speak|understand|read) (English|Chinese|French)? "
    "How (are you|old are you|do you do|does it work)? Please (help me|answer in English|translate this|write a "
    "poem)(\\.|) I (do not|don't) (understand|know|like it)(\\.|) Who (wrote|killed|was) (the book|him|{p})? "
    "(Bonjour|Hola|Guten Tag|Ciao|Konnichiwa)(!|) こんにちは ありがとう 안녕하세요 Привет"
)
EMOJI = "😀😂🤣😊😍🤔👍👎❤🔥🎉🐶🐱🌹☀🌙⭐🍎🚗✈🏀🎵😭😡🙏👋💯🤖"


class SmallTalk:
    """What a model says of itself and of what it cannot answer, about one book."""

    def __init__(self, words: Words, people: list[str], phrases: list[str]):
        """people: of the book, the best known first. phrases: pieces of the book, to ask why about."""
        self.words, self.people, self.phrases = words, people, phrases or ["来"]
        book = f"《{words.title}》" if words.title else "这本书"
        example = f"比如：{people[0]}是谁？" if people else "比如：第一回讲了什么？"
        asked = f"可以问我{book}里的人和事，{example}"
        self.beyond = words.own(f"这个我答不了。{asked}")
        self.answers = {
            "hello": f"你好，我是读过{book}的小模型。{asked}",
            "here": f"我在，你好。{asked}",
            "bye": f"再见，欢迎再来问我{book}里的人和事。",
            "thanks": f"不客气。{asked}",
            "praise": f"谢谢。{asked}",
            "sorry": f"没关系，不客气。{asked}",
            "who": f"我是一个小模型，只读过{book}。{asked}",
            "able": f"我能回答{book}里的人和事，{example}",
        }
        self.answers = {kind: words.own(answer) for kind, answer in self.answers.items()}

    def courtesies(self, rng: Random) -> Iterator[tuple[str, str, bool]]:
        """(what is typed, the answer, whether it is only asked in eval.jsonl), in random order without an end."""
        tables = {
            kind: [each for part in table.split() for each in alternatives(part)] for kind, table in COURTESIES.items()
        }
        while True:
            kind = rng.choice(list(tables))
            number = rng.randrange(len(tables[kind]))
            typed = tables[kind][number].format(n=rng.choice("明红华丽强军李王张刘陈杨"))
            yield self.words.own(typed), self.answers[kind], is_held_out(typed)

    def beyonds(self, rng: Random) -> Iterator[tuple[str, str, bool]]:
        """The same of what is beyond the book."""
        templates = BEYOND.split()
        english = [each for part in re.split(r"(?<=[?).}]) (?=[(\w])", SENTENCES) for each in alternatives(part)]
        while True:
            draw = rng.random()
            if draw < 0.2:
                typed = self.noise(rng)
            elif draw < 0.4:
                typed = self.words.own(rng.choice(alternatives(templates[-1])))
            elif draw < 0.46:
                typed = rng.choice(english).replace("{p}", "Zhao Yun").replace("\\", "")
            else:
                template = rng.choice(alternatives(rng.choice(templates))).replace("\\", "")
                x, y = rng.sample(self.people[:60], 2) if len(self.people) > 1 else ("你", "他")
                about = {
                    "x": x,
                    "y": y,
                    "t": self.words.own(rng.choice(self.words.places[1:])),
                    "a": rng.randrange(1, 1000),
                }
                about |= {
                    "b": rng.randrange(1, 100),
                    "c": rng.choice(self.phrases or ["死"]),
                    "w": rng.choice(self.phrases or ["你好"]),
                }
                typed = self.words.own(template).format(**about)
            yield typed, self.beyond, is_held_out(typed)

    def noise(self, rng: Random) -> str:
        """What is no language: a key held down, signs, emoji, characters at random."""
        kinds = [
            rng.choice("哈呵嗯哦啦嘎呜喂吼嘿的了是") * rng.randrange(2, 12),
            "".join(rng.choices("asdfghjklqwertyuiopzxcvbnm1234567890", k=rng.randrange(1, 12))),
            "".join(rng.choices("。，！？…、；：.,!?#@%&*", k=rng.randrange(1, 6))),
            "".join(rng.choices(EMOJI, k=rng.randrange(1, 5))),
            "".join(rng.choices("".join(self.phrases), k=rng.randrange(2, 9))),
            str(rng.randrange(10**6)),
        ]
        return rng.choice(kinds)


def is_held_out(typed: str) -> bool:
    """Whether something typed is only asked in eval.jsonl: about one in twelve, always the same."""
    return sum(typed.encode("utf-8")) % 12 == 0
