"""Fetching books: the package, encodings, and a server that misbehaves."""

import json
import os
import re
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from miniglm.proxy import bypass_proxies

TEXT = "却说曹操引军追赶，玄德大败而走。\n" * 4000


class Misbehaving(BaseHTTPRequestHandler):
    """Serves TEXT: /good; /cut stops in the middle of each answer but the last; /stall falls silent once; and so on."""

    protocol_version = "HTTP/1.1"
    calls = {}

    def do_GET(self):
        """Answer as the path says."""
        kind = self.path.strip("/").split("/")[0]
        count = self.calls[self.path] = self.calls.get(self.path, 0) + 1
        body = TEXT.encode()
        if kind == "missing" or kind == "down" or (kind == "busy" and count < 3):
            return self.send_error({"missing": 404, "down": 503, "busy": 503}[kind])
        start = 0
        if (asked := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) and kind != "norange":
            start = int(asked[1])
            self.server.resumed_at.append(start)
        rest = body[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(rest) + (10**6 if kind == "liar" else 0)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if kind in ("cut", "norange") and count < 3:
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
        elif kind == "stall" and count == 1:
            self.wfile.write(rest[:70000])
            self.wfile.flush()
            self.server.released.wait(20)
            self.close_connection = True
        else:
            self.wfile.write(rest)
            self.close_connection = kind == "liar"

    def log_message(self, *words):
        """Silence."""


@pytest.fixture
def server(monkeypatch):
    """The misbehaving server on a port of its own; what waits before it tries again waits a tenth of the time."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 10))
    Misbehaving.calls = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    server.resumed_at, server.released = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()


def book(project, name):
    """data/NAME/input.txt."""
    return (project.folder / "data" / name / "input.txt").read_text(encoding="utf-8")


def test_the_novel_and_its_people(project):
    """120 chapters, about 600,000 characters, a paragraph a line; the list of people has other names too."""
    text = book(project, "sanguo")
    assert len(re.findall(r"^第\S+回 ", text, re.MULTILINE)) == 120
    assert 590_000 < len(text) < 605_000 and "\r" not in text and "\t" not in text
    people = json.loads((project.folder / "data/sanguo/entities.json").read_text(encoding="utf-8"))
    assert "孔明" in people["诸葛亮"] and "孔明" in people["胡昭"] and not any("[" in name for name in people)


@pytest.mark.parametrize("kind", ["good", "cut", "busy", "norange"])
def test_downloads_arrive_whole(project, server, kind):
    """Cut-off answers are resumed, a busy server is asked again, one that knows no ranges starts over."""
    name = f"download-{kind}"
    project.run("data/fetch_data.py", name, f"--from={server.url}/{kind}", "--timeout=5")
    assert book(project, name) == TEXT
    assert bool(server.resumed_at) == (kind == "cut")
    assert [path.name for path in (project.folder / "data" / name).iterdir()] == ["input.txt"]


def test_a_stalled_download_is_tried_again_where_it_was(project, server):
    """Silence for longer than --timeout ends a try, and the next one asks for the rest."""
    project.run("data/fetch_data.py", "stall", f"--from={server.url}/stall", "--timeout=1")
    assert book(project, "stall") == TEXT and server.resumed_at and server.resumed_at[0] > 0


@pytest.mark.parametrize("kind", ["missing", "down", "liar"])
def test_a_failed_download_is_told_and_keeps_the_old_book(project, server, kind):
    """A length that is not kept, or no answer, never replaces what is there."""
    project.write(f"data/{kind}/input.txt", "旧书\n")
    message = project.fails("data/fetch_data.py", kind, f"--from={server.url}/{kind}", "--retries=2", "--timeout=2")
    assert f"could not download {server.url}/{kind}" in message
    assert book(project, kind) == "旧书\n"


def test_an_interrupted_download_goes_on_in_the_next_call(project, server):
    """What was fetched before is not fetched again."""
    project.fails("data/fetch_data.py", "later", f"--from={server.url}/cut/later", "--retries=1", "--timeout=5")
    project.run("data/fetch_data.py", "later", f"--from={server.url}/cut/later", "--retries=3", "--timeout=5")
    assert book(project, "later") == TEXT and server.resumed_at[0] > 0


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_hosts_without_a_proxy_stay_without_one(monkeypatch, name):
    """Whichever of the two variables names them; both do afterwards."""
    for each in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(each, "")
    monkeypatch.setenv(name, "intranet.example,localhost")
    bypass_proxies("localhost", "127.0.0.1")
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intranet.example,localhost,127.0.0.1"


@pytest.mark.parametrize(
    "name, proxy, shown",
    [
        ("HTTP_PROXY", "http://me:sesame@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("ALL_PROXY", "socks5://me:sesame@127.0.0.1:9", "socks5://127.0.0.1:9"),
        ("all_proxy", "socks4://127.0.0.1:9", "socks4://127.0.0.1:9"),
        ("ALL_PROXY", "socks://127.0.0.1:9", "socks://127.0.0.1:9"),
        ("HTTP_PROXY", "nonsense://127.0.0.1:9", "nonsense://127.0.0.1:9"),
        ("HTTP_PROXY", "http://me:sesame@[::1", "http://[::1"),
    ],
)
def test_a_proxy_that_fails_is_named_without_its_password(project, name, proxy, shown):
    """Which setting it is, and what to do, whatever is wrong with it."""
    words = ["data/fetch_data.py", "proxied", "--from=http://example.invalid/book.txt", "--retries=1"]
    done = project.run(*words, status=2, **{name: proxy})
    assert f"check the proxy {shown} of {name}, or take it out" in done.stderr.splitlines()[-1]
    assert "sesame" not in done.stdout + done.stderr


def test_packages_through_a_proxy_that_fails(project):
    """pip's own words say nothing of it."""
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    assert "check the proxy http://127.0.0.1:9 of HTTPS_PROXY" in project.fails("data/fetch_data.py", **proxy)


class Socks(socketserver.StreamRequestHandler):
    """A SOCKS5 proxy that leads every connection to its server's own `target`."""

    def handle(self):
        """Greet, be told an address, and pass on what comes."""
        _, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x00")
        *_, kind = self.rfile.read(4)
        self.server.asked.append(self.rfile.read(4 if kind == 1 else self.rfile.read(1)[0]))
        self.rfile.read(2)
        self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
        with socket.create_connection(self.server.target) as onward:
            while (line := self.rfile.readline()).strip():
                onward.sendall(line)
            onward.sendall(b"\r\n")
            while content := onward.recv(1 << 16):
                self.wfile.write(content)


def test_a_book_comes_through_a_socks_proxy(project, server):
    """The proxy of many a reader; it is asked for the name and looks it up itself."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Socks) as proxy:
        proxy.daemon_threads = True  # a connection that is kept open is not waited for
        proxy.asked, proxy.target = [], server.server_address
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        address = {"ALL_PROXY": f"socks5h://127.0.0.1:{proxy.server_address[1]}"}
        project.run("data/fetch_data.py", "socks", "--from=http://books.invalid/good", **address)
        proxy.shutdown()
    assert book(project, "socks") == TEXT and proxy.asked == [b"books.invalid"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
def test_encodings_are_recognised(project, encoding):
    """A text in any of the named encodings arrives as UTF-8, and the encoding found is printed."""
    text = "且說曹操引軍追趕，玄德大敗而走。關公橫刀立馬，眾皆駭然。\n" if encoding == "big5" else TEXT[:408]
    project.write("mine.txt", (text * 5).encode(encoding))
    out = project.run("data/fetch_data.py", "mine", "--from=mine.txt").stdout
    assert book(project, "mine") == text * 5
    assert {"utf-8-sig": "utf_8", "utf-8": "utf_8", "utf-16": "utf_16"}.get(encoding, encoding) in out


def fetched(project, content, *words):
    """(what is printed, the book) where `content` is given as a book."""
    project.write("mine.txt", content)
    out = project.run("data/fetch_data.py", "mine", "--from=mine.txt", *words).stdout
    return out, book(project, "mine")


LONG = TEXT[: 17 * 300]  # 300 lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030", "big5"])
def test_a_file_cut_off_inside_a_character_is_a_book(project, encoding):
    """As a download or a copy that stopped leaves it: all but that character is kept, and its place is told."""
    text = "且說曹操引軍追趕，玄德大敗而走。\n" * 300 if encoding == "big5" else LONG
    content = text.rstrip("\n。").encode(encoding)[:-1]
    out, kept = fetched(project, content)
    assert kept == text.rstrip("\n。")[:-1] + "\n"
    assert f"of {len(content):,} bytes, no" in out and "line 300 (byte " in out


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
@pytest.mark.parametrize("place", [0, 17 * 100, 17 * 200 + 8])
def test_a_stray_byte_is_left_out_and_told_with_its_place(project, encoding, place):
    """At the beginning, between two lines, inside one; the model never sees a mark in its stead."""
    before, after = LONG[:place].encode(encoding), LONG[place:].encode(encoding)
    out, kept = fetched(project, before + b"\xff" + after)
    assert kept == LONG
    assert f"left out: 1 of {len(before + after) + 1:,} bytes, no {encoding.replace('-', '_')}" in out
    assert f"line {place // 17 + 1} (byte {len(before)})\n" in out


def test_many_stray_bytes_are_counted_and_the_first_are_shown(project):
    """Four in ten thousand are left out; where more than a thousandth is bad, it is no text any more."""
    lines = LONG.encode("gb18030").splitlines(keepends=True)
    out, kept = fetched(project, b"".join(b"\xff" * (place % 75 == 0) + line for place, line in enumerate(lines)))
    assert kept == LONG and "left out: 4 of" in out and "line 1 (byte 0), line 76 (byte 2476), line 151 (byte" in out
    assert "…" in out.splitlines()[1]
    project.write("mine.txt", b"\xff".join(lines))
    assert "no text" in project.fails("data/fetch_data.py", "mine", "--from=mine.txt")


@pytest.mark.parametrize(
    "stray, told",
    [
        ("\0", "control characters"),
        ("\x1b", "control"),
        ("\ufffd", "lost earlier"),
        ("\u200b", "invisible"),
        ("\ufeff", "invisible"),
    ],
)
def test_what_no_reader_sees_is_left_out_and_told(project, stray, told):
    """A NUL, the mark of a character that another program lost, a zero-width space, a byte order mark in the middle."""
    out, kept = fetched(project, LONG[:40] + stray + LONG[40:])
    assert kept == LONG and "left out: 1 " in out and told in out and ": line 3\n" in out


@pytest.mark.parametrize(
    "begin",
    [
        "*** START OF THE PROJECT GUTENBERG EBOOK 三國 ***",
        "***START OF THIS PROJECT GUTENBERG EBOOK 三國***",
        "*** START OF THE PROJECT GUTENBERG EBOOK A LONG\nTITLE ***",
        "",
    ],
)
@pytest.mark.parametrize(
    "end",
    [
        "*** END OF THE PROJECT GUTENBERG EBOOK 三國 ***",
        "End of the Project Gutenberg EBook of 三國\n\n***END OF THIS PROJECT GUTENBERG EBOOK 三國***",
        "",
    ],
)
def test_the_licence_around_a_text_of_ones_own_is_cut(project, begin, end):
    """In its various spellings, and where one half alone is there."""
    content = (
        "The Project Gutenberg eBook of 三國\n\n" * bool(begin)
        + f"{begin}\n\n{LONG}\n{end}\n"
        + "\nUpdated editions\n" * bool(end)
    )
    out, kept = fetched(project, content)
    assert kept.strip("\n") == LONG.strip("\n")
    assert ("of Project Gutenberg's licence" in out) == bool(begin or end)


def test_a_licence_without_marks_is_told(project):
    """Nobody knows where it ends, and so it stays, but not in silence."""
    out, kept = fetched(project, "The Project Gutenberg eBook of 三國\n" + LONG)
    assert kept.startswith("The Project") and "line 1 of the book names Project Gutenberg" in out


@pytest.mark.parametrize("form", ["lines", "list", "pretty list", "mark", "texts"])
@pytest.mark.parametrize("field", ["text", "content", "Text"])
def test_json_of_texts_is_read_as_texts(project, form, field):
    """As pretraining data is given: a line a text, or one list; with a blank line between two texts."""
    texts = ["却说曹操引军追赶。\n次日天明。", "玄德大败而走。"]
    records = texts if form == "texts" else [{field: text} for text in texts]
    if form in ("lines", "mark"):
        content = "\ufeff" * (form == "mark") + "".join(json.dumps(record) + "\n" for record in records)
    else:
        content = json.dumps(records, ensure_ascii=False, indent=2 if form == "pretty list" else None)
    out, kept = fetched(project, content)
    assert kept == "\n\n".join(texts) + "\n" and "2 records with a text" in out


def test_marks_of_a_chat_template_are_no_text(project):
    """minimind's data has them around each text, and several texts in a record."""
    content = '{"text": "<|im_start|>却说曹操。<|im_end|> <|im_start|>玄德大败。<|im_end|>"}\n{"text": "次日。"}\n'
    out, kept = fetched(project, content)
    assert kept == "却说曹操。\n\n玄德大败。\n\n次日。\n" and "marks such as <|im_start|>" in out


def test_records_without_a_text_are_counted(project):
    """With their places; where none has one, the line says what is read, and where conversations are."""
    out, kept = fetched(project, '{"text": "却说曹操。"}\n{"title": "x"}\n{"text": 3}\nno JSON\n{"text": " "}\n')
    assert kept == "却说曹操。\n" and "left out: 3 records without a text: line 2, line 3, line 5\n" in out
    assert "left out: 1 no JSON: line 4\n" in out
    project.write("mine.txt", '{"conversations": [{"role": "user", "content": "谁？"}]}\n' * 3)
    assert "data/prepare_sft.py" in project.fails("data/fetch_data.py", "mine", "--from=mine.txt")


CHAPTERS = [("第一回 桃园结义", "却说曹操。"), ("第二回 怒鞭督邮", "第二回 怒鞭督邮\n玄德大败。"), ("", "次日。")]


@pytest.mark.parametrize(
    "book",
    [
        [{"title": title, "content": text} for title, text in CHAPTERS],
        [{"標題": title, "正文": text, "text": ""} for title, text in CHAPTERS],
        [{"chapter": title[:3], "title": title[4:], "text": text} for title, text in CHAPTERS],
        [{"title": CHAPTERS[0][0], "text": "却说曹操。"}, *({"title": t, "text": x} for t, x in CHAPTERS[1:])],
        {"chapters": [{"chapter": title, "content": text} for title, text in CHAPTERS]},
        [{"title": "", "章节": [{"title": title, "paragraphs": 1, "text": [text]} for title, text in CHAPTERS]}],
    ],
)
def test_titles_of_chapters_in_json_come_before_their_texts(project, book):
    """Once, where the text begins with its title; in a field of any usual name, and in chapters within a book."""
    content = json.dumps(book, ensure_ascii=False)
    assert fetched(project, content)[1] == ("第一回 桃园结义\n\n却说曹操。\n\n第二回 怒鞭督邮\n玄德大败。\n\n次日。\n")


@pytest.mark.parametrize("beginning", ["[楔子]\n", "{序}", "[", '{"text": "却说', "[本书由某人整理]\n[第二行]\n"])
def test_a_book_that_begins_with_a_bracket_is_no_json(project, beginning):
    """It is kept as it is."""
    assert fetched(project, beginning + LONG)[1] == beginning + LONG


@pytest.mark.parametrize(
    "content, message",
    [
        (b"PK\x03\x04" + bytes(500), "this is a zip, as .epub and .docx are"),
        (b"%PDF-1.7\n" + bytes(500), "this is a PDF"),
        ("\n<!DOCTYPE html>\n<html><body>" + LONG, "this is an HTML page"),
        ("<?xml version='1.0'?>\n<!-- saved -->\n<HTML lang='zh'>" + LONG, "this is an HTML page"),
    ],
)
def test_a_book_in_another_format_is_told(project, content, message):
    """What it is, and that it is to be saved as text."""
    project.write("mine.txt", content)
    found = project.fails("data/fetch_data.py", "mine", "--from=mine.txt")
    assert found.startswith(message) and found.endswith("save the book as plain UTF-8 text")


def test_line_ends_become_newlines(project):
    """Windows and old Mac line ends."""
    project.write("mine.txt", "一行\r\n两行\r三行\n".encode() * 3)
    project.run("data/fetch_data.py", "ends", "--from=mine.txt")
    assert book(project, "ends") == "一行\n两行\n三行\n" * 3


@pytest.mark.parametrize(
    "content, words, message",
    [
        (b"", ["mine", "--from=bad.txt"], "is empty"),
        (b" \n\n", ["mine", "--from=bad.txt"], "is empty"),
        (bytes(range(256)) * 20, ["mine", "--from=bad.txt"], "no text"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 500, ["mine", "--from=bad.txt"], "no text"),
        (None, ["mine", "--from=nowhere.txt"], "no file nowhere.txt"),
        (None, ["tianlong"], "--from=PATH"),
        (None, ["unheard"], "no address is known"),
        (None, ["../outside", "--from=bad.txt"], "is no name"),
        (None, ["a", "b", "--from=bad.txt"], "name one book"),
    ],
)
def test_bad_input_is_told(project, content, words, message):
    """Each mistake in one line with its remedy."""
    project.write("bad.txt", content or b"")
    assert message in project.fails("data/fetch_data.py", *words)


def test_the_names_are_listed(project):
    """--list shows what needs no --from."""
    out = project.run("data/fetch_data.py", "--list").stdout
    assert all(name in out for name in ("sanguo", "reviews", "honglou", "xiyou", "shuihu", "tianlong"))


@pytest.mark.long
def test_reviews(project):
    """Reviews of both kinds, in two splits that share none."""
    project.run("data/fetch_data.py", "reviews")
    splits = {}
    for split in ("train", "eval"):
        lines = (project.folder / f"data/reviews/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        splits[split] = [json.loads(line) for line in lines]
        assert {record["Answer"] for record in splits[split]} == {"正面", "负面"}
    # 35,124 lines, half of them twice
    assert len(splits["train"]) > 15_000 and len(splits["eval"]) > 1_500
    assert not {r["Question"] for r in splits["train"]} & {r["Question"] for r in splits["eval"]}
