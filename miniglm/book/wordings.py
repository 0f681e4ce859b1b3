"""The words in which a fact about a book is asked for, by kind of fact."""

import functools
import itertools
import re
from collections.abc import Sequence
from random import Random

from miniglm.typed import SIMPLIFIED, TRADITIONAL, in_script

# A table of wordings gives for each kind of fact the templates of its questions, separated by spaces: {x} is what the
# fact is about (张飞, 第一回), {y} the second of a pair, {t} 《title》里, 书中 or nothing. A question that ends with ？
# may get one of LEADS in front. TRAINED_WORDINGS are trained, a few for each fact; NEW_WORDINGS are only asked in
# eval.jsonl.
LEADS = ["", "", "", "", "请问", "请问", "告诉我，", "我想知道", "你知道", "那么", "再问一下，"]
# How a question is typed: some of the trained ones get a few GREETINGS in front, THANKS behind, or one of SLIPS.
GREETINGS = (
    "你好 你好 你好 您好 您好 你好呀 您好呀 嗨 哈喽 hi hello 早 早上好 上午好 中午好 下午好 晚上好 大家好 老师好 "
    "老师 "
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
    "说说{x}的字。 写出{x}的表字。 {x}的表字？ {x}有什么字？ 给我{x}的表字。 {x}，字什么？ {t}{x}的字？ "
    "{x}取字什么？ "
    "{x}的字怎么写？ 人称{x}字什么？ {x}用什么字？ {x}表字是哪两字？ 知道{x}字什么吗？ {x}的字，是什么？ "
    "{x}这人字什么？ 帮我查{x}的表字。 {x}字哪两个字？ {x}又字什么？ 拿什么作{x}的字？",
    "whose": "(介绍|介绍一下|说说|讲讲|跟我说说){x}。 "
    "谁字{x}？ 字{x}的是谁？ {x}是谁的字？ {t}谁字{x}？ 表字{x}的人是谁？ {x}是谁的表字？ 哪个人字{x}？ "
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
    "{x}(讲|说|写)(了|的是|)(什么|啥|些什么|什么事|什么故事|哪些事)？ {x}(的|)(主要|)(内容|情节|故事)(是什么|"
    "有哪些|是啥|)？ {x}叫(什么|啥|什么名字)？ "
    "(讲讲|说说|介绍|概括)(一下|){x}(的内容|的故事|)。 {x}(发生了|出了)什么事？ {x}题目是什么？ 说出{x}的回目。 "
    "{t}{x}叫什么名字？ {x}回目怎么写？ {x}的题目叫什么？ "
    "写出{x}的标题。 {x}的名字？ {t}{x}标题怎么写？",
    "heading": "“{x}”是第几回？ “{x}”是哪一回的回目？ {t}“{x}”在第几回？ 哪一回叫“{x}”？ “{x}”出自哪一回？ "
    "回目“{x}”是第几回的？ {t}哪一回的回目有“{x}”？ “{x}”见于第几回？ {x}是第几回？ {x}是哪一回？ "
    "标题“{x}”在哪一回？ "
    "说出“{x}”的回数。 第几回的题目是“{x}”？",
    "cast": "{x}有哪些人物？ {x}里有谁？ {x}主要写了谁？ {t}{x}的人物有谁？ "
    "{x}出场的主要人物有哪些？ 哪些人出现在{x}？ {t}{x}写到了哪些人？ 说说{x}的人物。 {x}都有谁？ "
    "{x}讲了哪些人？ 列出{x}的主要人物。",
    "chief": "{t}出现最多的{x}个人物是谁？ 主要人物有哪{x}个？ {t}写得最多的{x}个人是谁？ 说出最主要的{x}个人物。 "
    "{t}最重要的{x}个角色是谁？ 哪{x}个人物出现次数最多？ {t}的{x}大主角是谁？ 前{x}名人物是谁？ "
    "最常出现的{x}个人物是谁？ {t}谁是最主要的{x}个人？",
    "most": "{t}谁(出现得|出场|露面|出现的次数)最多？ {t}写得最多的(人|人物)是谁？ (主角|第一主角|头号人物)是谁？ "
    "{t}(哪个人|哪一个人物)(写得|提到得|出场)最多？ (提到|写到)次数最多的是谁？ {t}名字出现最多的是哪个？",
    "called": "{x}是谁？ {x}(指的是|说的是|就是|是指)谁？ (谁是|谁叫|谁又叫){x}？ {t}{x}是(哪个人|什么人|哪位)？ "
    "{x}本名(叫什么|是什么)？ "
    "{x}是谁的(别名|小名|称呼|外号)？ {x}这个(名字|称呼|名号)是谁的？ {x}真名叫什么？ (介绍|说说|讲讲){x}。",
    "slain": "{x}(是|)(被谁|给谁|让谁)(杀|斩|打死|杀害|杀死)(了|的|)？ "
    "(谁|什么人|哪个)(杀了|斩了|杀死了|打死了|杀的){x}？ "
    "{x}(死|败|亡)在(谁|什么人|谁的)(手里|手上|手下)？ (杀|斩|杀死)(了|){x}的(是谁|人是谁|人叫什么)？ "
    "{x}(怎么|如何|怎样|是怎么|到底怎么)(死|没|丧命|丢了性命)(的|)？ "
    "{x}(的死因|之死|怎么个死法|的下场|的结局)？ {x}(是|)(如何|怎样)(被杀|死|丧生)的？ "
    "{x}最后(怎么样|怎样|如何)了？ {x}死于谁手？ {t}{x}为谁所杀？",
    "slew": "{x}(杀了|斩了|杀过|斩过|打死过)(谁|哪些人|什么人|哪个)？ {x}(刀下|枪下|手下)(死过|有)(谁|哪些人)？ "
    "{t}(哪些人|谁)(死在|被){x}(手里|所杀)？ "
    "{x}斩过(什么|哪些)(将|大将|人)？",
    "death": "{x}(怎么|如何|怎样|是怎么|到底怎么|究竟怎么|咋)(死|没|去世|过世|离世|身亡)(的|)？ "
    "{x}(的死因|之死|怎么个死法|的下场|的结局)？ {x}最后(怎么样|怎样|如何)了？ "
    "{x}(是|)(因为什么|为什么|因何|因为啥)(死|去世|身亡)(的|)？ "
    "{x}(死|亡)(在|于)(哪|哪里|何处|哪一回|第几回|什么地方)？ {x}(什么时候|何时|哪一回|第几回)(死|去世|没)(的|)？ "
    "{t}{x}(是怎么样死的|怎么没了|死时怎样)？ (说说|讲讲){x}(的死|之死|怎么死的)。",
    "sons": "{x}(的|)(儿子|公子|孩子|子嗣|后代|儿女)(是谁|叫什么|有谁|有哪些|都有谁|是哪些|叫啥|叫什么名字)？ "
    "{x}有(几个|哪些|没有|什么)(儿子|孩子|后人)？ "
    "(谁是|哪些人是|说出){x}的(儿子|孩子)？ {x}(生了|养了)(谁|哪些儿子|几个儿子)？ "
    "{t}{x}的(长子|大儿子|后人)(是谁|叫什么)？ {x}的(娃|崽)叫啥？",
    "father": "{x}(的|)(父亲|爸爸|爹|老爸|老子|爹爹)(是谁|叫什么|叫啥|是哪个|是什么人|叫什么名字|是哪位)？ "
    "{x}是谁(的|家的)(儿子|孩子|公子|后人)？ "
    "(谁是|说出){x}的(父亲|爹|爸爸)？ {x}(他爹|他爸|他父亲)是谁？ {t}(谁|什么人)生了{x}？",
    "brothers": "{x}(的|)(兄弟|弟弟|哥哥|弟|兄|弟兄)(是谁|叫什么|有谁|有哪些|是哪个|叫啥|是哪位)？ "
    "{x}有(哪些|几个|没有|什么)(兄弟|弟弟|哥哥|弟兄)？ "
    "(谁是|说出|谁和){x}(的兄弟|是兄弟)？ {t}{x}(跟谁|和谁|同谁)是兄弟？",
    "wife": "{x}(的|)(妻子|老婆|夫人|太太|媳妇|爱人|娘子)(是谁|叫什么|叫啥|是哪个|是哪位|姓什么)？ "
    "{x}(娶了|娶的是|娶|讨了)(谁|什么人|哪个)？ "
    "(谁是|谁嫁给了|说出){x}(的妻子|的老婆|的夫人|)？ {x}(跟谁|和谁|与谁)(成亲|结婚|成婚|是夫妻)？ {t}{x}有老婆吗？",
    "husband": "{x}(的|)(丈夫|老公|夫君|男人|夫婿)(是谁|叫什么|是哪个|叫啥|是哪位)？ "
    "{x}(嫁给了|嫁给|嫁了|许配给)(谁|什么人|哪个)？ "
    "(谁娶了|谁是){x}(的丈夫|)？ {x}是谁的(妻子|老婆|夫人|媳妇)？",
    "kin": "{x}(和|与|跟|同){y}(是|有|)什么关系？ {x}是{y}的(什么人|谁|什么|啥人)？ "
    "{x}{y}(什么关系|啥关系|有何关系)？ {t}{x}(与|和){y}(是什么亲戚|有什么亲|是一家人吗|的关系)？ "
    "(说说|讲讲){x}(和|跟){y}的关系。 {y}(和|跟|与){x}(是|)(什么关系|啥关系|何关系)？",
    "native": "{x}(是|)(哪里|哪儿|什么地方|何处|哪里的|何地)人(氏|)？ "
    "{x}(的|)(家乡|老家|籍贯|故乡|祖籍|出生地)(是哪里|在哪|在哪里|是哪|是什么地方|在哪儿|)？ "
    "{x}(来自|出身|生在|家住)(哪里|哪儿|何处|何地|什么地方)？ "
    "{t}{x}(家在哪里|是何方人氏|从哪里来)？",
    "office": "{x}(做过|当过|任过|做了|当了|曾任|担任过|做|任)(什么官|什么官职|什么职位|哪些官|什么)？ "
    "{x}(的|)(官职|职位|官|职务|官位|头衔)(是什么|是啥|有哪些|叫什么|)？ "
    "{x}(被封|封|受封|封了|拜)(为|)(什么|什么官|什么侯|何职)？ "
    "{t}{x}(是什么官|官至何职|官居何位|官做到多大)？",
    "arms": "{x}(用|使|使用|拿|用的是|使的是|手里拿|耍)(什么|啥|何种|哪种)(兵器|武器|家伙|刀枪|兵刃)？ "
    "{x}的(兵器|武器|家伙|兵刃)(是什么|叫什么|是啥|叫啥|)？ {x}(拿|用|使)什么(打仗|上阵|厮杀|作战)？ "
    "{t}{x}(使什么|用什么)(刀|枪|兵刃)？",
    "bearer": "{x}是谁(的|用的|使的)(兵器|武器|兵刃|家伙)？ (谁|哪个|什么人)(用|使|拿|使用)(的是|){x}？ "
    "{x}(归谁|是谁的|是谁用的|是哪个人的|的主人是谁)？ {t}(使|用){x}的是谁？",
    "look": "{x}(长|生得|生|长得|看上去)(什么样|什么样子|怎样|如何|啥样|什么模样)(子|)？ "
    "{x}的(相貌|长相|外貌|样子|模样|容貌)(如何|怎样|是什么样|怎么样|)？ "
    "{t}(怎么|怎样|如何)(写|描写|形容){x}的(样子|相貌|外貌|长相)？ "
    "{x}(有多高|身高多少|多高|好看吗|什么身材)？ (描述|形容)(一下|){x}的(外貌|样子)。",
    "episode": "{x}(在|是|出在|见于|写在|发生在)(第几回|哪一回|哪回|第几回书|哪一章|第几章)？ "
    "{x}(的|)(故事|情节|事|经过)(在|是)(第几回|哪一回)？ (第几回|哪一回)(写|讲|有|是)(了|){x}？ "
    "{x}(讲|说|写)(了|的是|)(什么|什么事|啥|什么故事)？ "
    "{x}(是怎么回事|是什么事|怎么回事|的经过|是什么故事|是什么意思)？ (讲讲|说说|介绍|讲一讲|说一说){x}。 "
    "{x}(有谁|有哪些人|都有谁|写了哪些人|里有谁|的主角是谁)？ "
    "{x}(的|)(是谁|是哪个|人是谁|是什么人|是哪位)？ {x}(是|)(哪些人|谁和谁|哪几个人|哪几个|哪位|哪几位)？ "
    "(谁|什么人|哪个){x}(的|了|)？ {t}{x}的故事？ {x}？",
    "author": "(这本书|这部书|这书|《{x}》|{x}|本书)(是|)(谁写的|谁的作品|谁作的|何人所写|谁著的|哪位作家写的)？ "
    "(《{x}》|{x}|这本书|这部书|本书)的作者(是谁|叫什么|是哪位|)？ "
    "(谁|什么人)写(了|的)(《{x}》|{x}|这本书|这部小说)？",
    "length": "(这本书|这部书|《{x}》|{x}|全书|书里|本书)(一共|总共|共|)(有多少|有几|多少|几)(回|章回)？ "
    "{t}(共|一共)多少回？",
}
MORE_WORDINGS = {
    "title": 4,
    "cast": 2,
    "pair": 2,
    "chief": 4,
    "most": 24,
    "author": 40,
    "length": 12,
    "episode": 5,
}  # times as many: several numerals, few facts, hard ones
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
    "most": "{t}哪位人物的戏份最多？ 名字被提得最多的人是谁？",
    "called": "请问{x}到底是谁？ {x}是对谁的称呼？ 你知道{x}指谁吗？",
    "slain": "究竟是谁结果了{x}？ {x}丧命于谁之手？ 取{x}性命的是谁？",
    "slew": "死于{x}之手的有谁？ {x}取过谁的性命？",
    "death": "{x}是怎么离开人世的？ 请讲{x}去世的经过。 {x}因何亡故？",
    "sons": "请问{x}膝下有谁？ {x}家的公子是哪些？ {x}的子女叫什么？",
    "father": "请问{x}的令尊是谁？ {x}出自谁的膝下？ 谁是{x}他爸？",
    "brothers": "请问{x}的手足是谁？ 和{x}一母所生的是谁？",
    "wife": "请问{x}的配偶是谁？ 谁做了{x}的妻室？",
    "husband": "请问{x}的配偶是谁？ {x}后来嫁了何人？",
    "kin": "请问{x}跟{y}算什么亲？ {x}同{y}之间是什么关系？",
    "native": "请问{x}原籍何地？ {x}生长在哪里？",
    "office": "请问{x}官拜何职？ {x}有过什么官衔？",
    "arms": "请问{x}惯用何种兵刃？ {x}打仗用什么武器？",
    "bearer": "请问{x}在谁手里？ 拿着{x}的是谁？",
    "look": "请问{x}的面貌身材怎样？ 书里{x}是什么长相？",
    "episode": "请问{x}这件事写在哪一回？ 想知道{x}的来龙去脉。 {x}出自哪里？",
    "author": "请问这部小说出自谁手？",
    "length": "请问整本书有多少回？",
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
    "most": "书中出现最多的人是{names}。",
    "called": "{x}就是{y}。",
    "called in full": "{x}就是{y}，字{zi}。",
    "slain": "{x}被{y}所杀，见{place}。",
    "slew": "{x}杀了{names}。",
    "death": "{x}之死见{place}：「{quote}」。",
    "sons": "{x}的儿子有{names}。",
    "father": "{x}的父亲是{y}。",
    "brothers": "{x}的兄弟有{names}。",
    "wife": "{x}的妻子是{y}。",
    "husband": "{x}的丈夫是{y}。",
    "son of": "{x}是{y}的儿子。",
    "father of": "{x}是{y}的父亲。",
    "brother of": "{x}和{y}是兄弟。",
    "wife of": "{x}是{y}的妻子。",
    "husband of": "{x}是{y}的丈夫。",
    "sworn": "{x}和{y}是结义兄弟。",
    "native": "{x}是{w}人。",
    "office": "{x}曾任{names}。",
    "arms": "{x}用{w}。",
    "bearer": "{w}是{x}的兵器。",
    "look": "{x}的样子见{place}：「{quote}」。",
    "episode": "{x}在{place}，有{names}：「{quote}」。",
    "author": "{x}的作者是{y}。",
    "length": "全书共{n}。",
    "absent": "{x}，书中没有这个人。",
    "absent chapter": "{x}书中没有，全书共{n}。",
}
ABSENT = "书中没有"  # what an answer says about what the book does not have


@functools.cache
def alternatives(template: str) -> list[str]:
    """All that a template with choices says: 谁(杀|斩)了{x}(的|)？ is four questions."""
    parts = re.split(r"\(([^)]*)\)", template)
    choices = [part.split("|") if place % 2 else [part] for place, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


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

    def fitting(self, templates: Sequence[str], placed: bool) -> list[str]:
        """Templates with the book's word for a chapter; without those that ask for one, where there is none.

        placed: whether what is asked about stands in a chapter.
        """
        if not self.unit or not placed:
            return [template for template in templates if "回" not in template]
        if self.unit == "回":
            return list(templates)
        return [template.replace("回目", "标题").replace("回", self.unit) for template in templates]

    def questions(self, fact: dict, wordings: dict[str, str], leads: list[str], rng: Random) -> list[str]:
        """All questions about a fact that its kind's templates in `wordings` give, the forms of its x in turn.

        They are in random order. leads: what may stand before one.
        """
        templates = [each for template in wordings[fact["kind"]].split() for each in alternatives(template)]
        templates = self.fitting(templates, bool(fact.get("place", True)))
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
