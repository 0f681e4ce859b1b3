"""What some books do not say of themselves: their title and author, and how else people are called.

fetch_data.py keeps it beside the text as about.json; a book of one's own may have one, too.
"""

from typing import TypedDict

from miniglm.errors import refuse
from miniglm.files import read_json


class About(TypedDict, total=False):
    """What is known of a book; all of it may be missing."""

    title: str  # without 《》
    author: str
    called: dict[str, list[str]]  # {name: other names that the list of people lacks}


KNOWN: dict[str, About] = {
    "sanguo": {
        "title": "三国演义",
        "author": "罗贯中",
        "called": {
            "刘备": ["先主", "刘皇叔", "刘豫州", "汉中王"],
            "刘禅": ["后主", "阿斗"],
            "刘协": ["献帝", "汉献帝"],
            "张飞": ["张翼德", "翼德"],
            "关羽": ["关某", "美髯公"],
            "诸葛亮": ["卧龙先生", "诸葛先生", "武侯"],
            "曹操": ["曹阿瞒", "曹丞相", "曹公"],
            "董卓": ["董太师"],
            "司马懿": ["司马太傅"],
            "周瑜": ["周郎", "周都督"],
            "庞统": ["凤雏先生"],
            "司马徽": ["水镜先生", "水镜"],
            "赵云": ["常山赵子龙"],
            "徐庶": ["单福"],
        },
    },
    "honglou": {"title": "红楼梦", "author": "曹雪芹"},
    "xiyou": {"title": "西游记", "author": "吴承恩"},
    "shuihu": {"title": "水浒传", "author": "施耐庵"},
}


def read_about(path) -> About:
    """What the JSON file `path` tells of a book. Raises UserError where it is no such file."""
    about = read_json(path, 'write {"title": "…", "author": "…", "called": {"name": ["other name"]}}')
    called = about.get("called", {})
    malformed = not all(isinstance(about.get(field, ""), str) for field in ("title", "author"))
    malformed = malformed or not isinstance(called, dict)
    malformed = malformed or not all(
        isinstance(names, list) and all(isinstance(each, str) for each in names) for names in called.values()
    )
    refuse(malformed, f"{path} tells nothing of a book", 'write {"title": "…", "author": "…"}')
    return {"title": about.get("title", ""), "author": about.get("author", ""), "called": called}
