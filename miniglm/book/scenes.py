"""How people of a book died, read off the scenes in which a story follows them.

A story names somebody once and goes on without: 操令近侍取平日所藏名香…。嘱毕，长叹一声，泪如雨下。须臾，气绝而死。
Who acts first in a sentence is followed until somebody else does; what is said within quotation marks tells nothing.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from miniglm.book.mentions import ACTS, EDGE_MARKS, PERSON, SENTENCE, Marked, clauses_at
from miniglm.book.relations import Tie, sentence_at

LEADS = "(?:却说|且说|话说|原来|当下|于是|只见|忽见|忽报|是夜|次日|当夜|正|时|早有|这|那|只|又|见|可怜|比及)?"
DOES = "曰|笑|问|答|引[兵军]|领[兵军]|出马|挺|拍马|大[怒喜惊叫]|拜|谏|叩|听"
DIES = (
    "气绝|[而遂]死|而亡|而卒|而崩|而薨|身亡|归天|驾崩|自刎|自尽|自缢|遇害|断气|绝命|殒命|死于|死在|"
    "寿[^，。]{1,4}岁|亡年[^，。]{1,5}岁|(?<![杀射刺砍斩])(?:死|崩|薨)(?=[，。；])"
)
KILLS = (
    "刺咽喉|割[^，。]{0,3}[头首]|枭[^，。]{0,3}首|[斩刺砍搠]落?于?马[下前]|(?:砍|刺|射|搠)死(?=[，。；！于])|斩于(?!市)"
)
# What is only feared, wished or told from afar, and whose death is somebody else's.
UNREAL = re.compile("恐|欲|若|必|将|教|令|要|未|不|誓|诈|假|险|几|虽|岂|何|讹|听知|闻|报|免|既|已|之$|却说")
OTHERS = re.compile("妻|夫人|之母|之父|之子|所领|部下|小卒|军皆|众|[一二]牛|犬|魏主|吴主|蜀主|太后|士卒|内侍")
OBJECT = "[射刺砍中见将]"  # stand before somebody who is what happens to them
FOLLOWED = 6  # sentences at most in which somebody is followed who is not named
KILLED_WITHIN = 4  # sentences before a killing in which the killed is named
# Who acts in a chapter no longer has died before, or soon will: a death is looked for where somebody's last acts are.
LAST_SHARE, LAST_LEAST = 0.08, 2  # of the acts in their busiest chapter, and at least
ONE_SCENE = 200  # characters between sentences that tell of one death
LONGEST_SCENE = 44  # characters of a quotation
DIED = (
    "自刎|自缢|缢死|病死|病亡|病卒|身亡|气绝|遇害|而亡|而死|而卒|而崩|薨|归天|阵亡|自尽|被害|乱箭之下|驾崩|斩于|"
    f"射死(?!{PERSON})|(?:(?<!杀)死|(?<![部士小军狱兵])卒|崩|(?<!地)亡|缢死)(?=[，。；])"
)
FEIGNED = re.compile("赐|免|知|宫人|汝|吾|若|使|欲|必|恐|诈|未|假|誓|险|命|闻|(?<!却)说|闻知|报|虽|岂|将死|至死|何|不")


class Told(NamedTuple):
    """A sentence of a story, with all that is said in it."""

    start: int  # where it begins in its section's marked text
    stop: int
    text: str  # speech is blanked, so that a position in it is one in the section, less `start`


class Scene(NamedTuple):
    """A sentence that tells of somebody's death."""

    person: str
    index: int  # of the section
    start: int  # where the sentence begins
    stop: int  # where the clause ends that tells it


def told_sentences(marked: Marked) -> Iterator[Told]:
    """The sentences of a section's story."""
    text, start = without_speech(marked.text), 0
    for match in re.finditer(r"[。！？]|”(?![，；、])|\n", text):
        if match[0] == "”" and marked.text[match.start() - 1] not in "。！？":
            continue  # a quoted word
        yield Told(start, match.end(), text[start : match.end()])
        start = match.end()


def without_speech(text: str) -> str:
    """A text of the same length in which everything between quotation marks is blank."""
    return re.sub("(?<=“)[^”\n]*", lambda match: "□" * len(match[0]), text)


def last_acts(texts: Sequence[Marked]) -> dict[str, str]:
    """{person: the label of the last section in which they act as they did before}."""
    return {person: texts[index].label for person, index in last_sections(texts).items()}


def last_sections(texts: Sequence[Marked]) -> dict[str, int]:
    """The same with the sections' indices."""
    acts = defaultdict(Counter)  # {person: {section's index: how often they act there}}
    for index, marked in enumerate(texts):
        for match in re.finditer(f"(?P<x>{PERSON})(?:{ACTS})", marked.text):
            acts[marked.who(match["x"])][index] += 1
    last = {}
    for person, counts in acts.items():
        least = max(LAST_LEAST, LAST_SHARE * max(counts.values()))
        if busy := [index for index, count in counts.items() if count >= least]:
            last[person] = max(busy)
    return last


def deaths(texts: Sequence[Marked]) -> Iterator[Tie]:
    """How somebody died, where they act last: in a scene that follows them, else in a sentence that names them."""
    last = last_sections(texts)
    scenes: dict[str, Scene] = {}
    for scene in death_scenes(texts, last):
        known = scenes.get(scene.person)
        if not known or known.index < scene.index or scene.start - known.stop > ONE_SCENE:
            scenes[scene.person] = scene  # of several the last one, where it begins
    for person, index in last.items():
        if scene := scenes.get(person):
            marked = texts[scene.index]
            told = marked.plain(sentence_at(marked.text, scene.stop - 1))
            yield Tie("death", person, told, marked.label, told, scene_quote(marked, scene.start, scene.stop))
        elif tie := named_death(person, texts[max(0, index - 1) : index + 2]):
            yield tie


def death_scenes(texts: Sequence[Marked], last: dict[str, int]) -> Iterator[Scene]:
    """Every sentence that tells of the death of who acts last thereabouts. last: see last_sections."""
    dies, first = re.compile(DIES), re.compile(f"{LEADS}(?P<x>{PERSON})")
    for index, marked in enumerate(texts):
        followed, ago = "", 0
        for told in told_sentences(marked):
            for match in dies.finditer(told.text):
                named = list(re.finditer(PERSON, told.text[: match.start()]))
                before = told.text[named[-1].end() if named else 0 : match.start()]
                person = marked.who(named[-1][0]) if named else followed if ago < FOLLOWED else ""
                acts = not named or is_subject(told.text, named[-1].start())
                unreal = UNREAL.search(told.text[max(0, match.start() - 8) : match.start()])
                if acts and not unreal and not OTHERS.search(before) and abs(last.get(person, -9) - index) <= 1:
                    yield Scene(person, index, told.start, told.start + clause_end(told.text, match.end()))
                    break
            begins = first.match(told.text)
            followed, ago = (marked.who(begins["x"]), 0) if begins else (followed, ago + 1)


def is_subject(text: str, position: int) -> bool:
    """Whether who is named at a position of a sentence is whom its clause is about."""
    return bool(re.search(f"(?:^|[，。；：”\n])(?:{LEADS}|{LEADS}.{{0,8}}{OBJECT}(?:前面)?)$", text[:position]))


def named_death(person: str, texts: Sequence[Marked]) -> Tie | None:
    """The first sentence of some sections that names somebody and tells of their death."""
    told = re.compile(f"(?<!被)(?P<x>{PERSON})(?P<how>[^{PERSON[1:-1]}。]{{0,24}}?)(?:{DIED})")
    for marked in texts:
        for sentence in re.findall(SENTENCE, marked.text):
            for match in told.finditer(sentence):
                feigned = FEIGNED.search(sentence[: match.end()][-30:]) or OTHERS.search(match["how"])
                if marked.who(match["x"]) == person and not feigned and "曰" not in sentence:
                    plain, quote = marked.plain(sentence), marked.plain(clauses_at(sentence, *match.span()))
                    return Tie("death", person, plain, marked.label, plain, quote)
    return None


def killings(texts: Sequence[Marked]) -> Iterator[Tie]:
    """Who slew whom, where the slain is named before: 吕布从车后厉声出曰：“有诏讨贼！”一戟直刺咽喉.

    The slain is the last one named before who is not the slayer, and does nothing any more in the whole book.
    """
    last = {}  # {person: (section's index, position) of the last act}
    for index, marked in enumerate(texts):
        for match in re.finditer(f"(?P<x>{PERSON})(?:{DOES})", without_speech(marked.text)):
            if not re.search("[诗叹赞吊讽责]$", marked.text[: match.start()]):
                last[marked.who(match["x"])] = index, match.start()
    kills = re.compile(KILLS)
    for index, marked in enumerate(texts):
        before: list[Told] = []  # with the sentence that is looked at
        for told in told_sentences(marked):
            before = [*before[-KILLED_WITHIN:], told]
            match = kills.search(told.text)
            if not match or UNREAL.search(told.text[max(0, match.start() - 6) : match.start()]):
                continue
            unknown = re.search(f"见.?$|被[^，。{PERSON[1:-1]}]*$", told.text[: match.start()])
            if unknown or re.match(f"[^，。；]{{0,3}}{PERSON}", told.text[match.end() :]):
                continue  # the slayer has no name, or the slain is named behind
            position = told.start + match.start()
            story = "".join(each.text for each in before)[: position - before[0].start]
            named = [marked.who(each) for each in re.findall(PERSON, story)]
            here = {marked.who(each) for each in re.findall(PERSON, told.text[: match.start()])}
            follows = told.start and marked.text[told.start - 1] == "”"
            begins = re.match(f"{LEADS}(?P<x>{PERSON})", before[-2 if follows else -1].text)
            by = re.search(f"被(?P<y>{PERSON})[^，。]{{0,10}}$", story)
            slayer = marked.who(by["y"]) if by else named[-1] if named else ""
            slain = next((person for person in reversed(named) if person != slayer), "")
            sure = slain in here or begins and marked.who(begins["x"]) == slayer
            if slain and sure and last.get(slain, (index, 0)) < (index, position):
                plain = marked.plain(sentence_at(marked.text, position))
                quote = scene_quote(marked, told.start, told.start + clause_end(told.text, match.end()))
                yield Tie("slain", slain, slayer, marked.label, plain, quote)


def clause_end(text: str, position: int) -> int:
    """Where the clause ends in which a position of a text is."""
    end = re.compile("[，。；！？]").search(text, position)
    return end.start() if end else len(text)


def scene_quote(marked: Marked, start: int, stop: int) -> str:
    """What is quoted of a scene that ends at `stop`: whole sentences or clauses before it, LONGEST_SCENE at most.

    start: where its last sentence begins.
    """
    begins = [told.start for told in told_sentences(marked) if told.start <= start]
    paragraph = marked.text.rfind("\n", 0, start) + 1
    fitting = [
        begin for begin in begins if begin >= paragraph and len(marked.plain(marked.text[begin:stop])) <= LONGEST_SCENE
    ]
    if not fitting:  # a long sentence
        inside = [start + match.end() for match in re.finditer("[，；]", marked.text[start:stop])]
        fitting = [begin for begin in inside if len(marked.plain(marked.text[begin:stop])) <= LONGEST_SCENE]
    return marked.plain(marked.text[min(fitting, default=start) : stop]).strip(EDGE_MARKS)
