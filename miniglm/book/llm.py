"""Questions about a book, answered by a language model that is shown the book, and what of its answers can be trusted.

The method of the report (seed questions filled with people and episodes, five to a request), with the passages that fit
beside each question and a quotation asked for, so that an answer that the book does not bear out can be told.
"""

import hashlib
import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import bm25s
import requests
from tqdm import tqdm

from miniglm.book.facts import sentences
from miniglm.book.questions import Book, at_most, record
from miniglm.book.sections import Section
from miniglm.errors import UserError, refuse
from miniglm.proxy import proxy_of
from miniglm.retry import FailedTry, retry_policy, with_retries

SEEDS = {  # 23 ways to ask, by what they ask about
    "book": "{t}谁是中心人物？ 请说说{t}的中心人物是怎样的人。 {t}哪些情节最出名？ {t}有哪些重要角色？ "
    "{t}写到了哪些兵器和武艺？ {t}的故事发生在什么年代？ {t}想说的是什么道理？ {t}的情节大致如何展开？ "
    "{t}说的是一个什么故事？ {t}最后怎样收场？",
    "person": "{x}是个怎样的人？ {x}有什么别号？ {x}后来怎么样了？ {x}的妻子或丈夫是谁？ 哪些人和{x}交好？ "
    "谁和{x}为敌？ {x}有什么本领？ {x}出身如何？",
    "pair": "{x}和{y}是怎么认识的？ {x}与{y}之间发生过什么事？ {x}和{y}是什么关系？",
    "episode": "说说“{x}”这一段。 “{x}”的经过是怎样的？",
}
TOGETHER = 5  # questions in a request
PASSAGE = 200  # characters of the book, about, that are found and shown as one
QUOTE = (4, 60)  # characters of a quotation
QUOTED = re.compile("「(.+?)」")
INSTRUCTION = (
    "你根据给出的原文回答关于一部书的问题，不用原文以外的内容。每个回答一两句话，里面用「」一字不差地引一句原文作为根据。"
    '只输出 JSON：{{"answers": ["…", "…"]}}，正好 {n} 个回答，顺序和问题一样。'
)
LONGEST_ANSWER = 1 << 22  # bytes
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # HTTP statuses after which another try may help
FIRST_WAIT, LONGEST_WAIT = 0.5, 60  # seconds between two tries, see retry_policy


class OutOfBudget(Exception):
    """All requests that were allowed have been sent."""


class Unanswerable(Exception):
    """The server answers others, but not this request."""


class Server:
    """A chat completions address in OpenAI's protocol, with a cache, so that nothing is paid for twice."""

    def __init__(self, base_url, model, key, cache, retries: int, max_requests: int, timeout: float):
        """cache: the file that keeps every answer, a line each. key may be empty. timeout: seconds without a byte.

        Raises UserError.
        """
        self.url = base_url.rstrip("/") + "/chat/completions"
        refuse(
            not is_address(self.url), "--base_url is no address", "write https://HOST/v1, without a name and password"
        )
        address = urlsplit(self.url)
        readable = address.scheme != "https" and address.hostname not in ("localhost", "127.0.0.1", "::1")
        refuse(readable and key, "the key would travel unencrypted", "use an https address")
        self.model, self.key = model, key.strip()
        refuse(not self.key.isascii() or not self.key.isprintable(), "the key is none", "check OPENAI_API_KEY")
        self.retries, self.max_requests, self.timeout = retries, max_requests, timeout
        self.policy = retry_policy(retries, AGAIN, FIRST_WAIT, LONGEST_WAIT)
        self.sent, self.cached, self.answers = 0, 0, False  # answers: whether any request was answered
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.cache_path, self.cache = Path(cache), {}
        refuse(self.cache_path.is_symlink(), f"{cache} is a link to elsewhere", "delete it")
        kept = self.cache_path.read_text(encoding="utf-8", errors="replace") if self.cache_path.exists() else ""
        self.half_line = bool(kept) and not kept.endswith("\n")  # of a run that was stopped while it wrote
        for line in kept.split("\n"):
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                entry = json.loads(line)
                self.cache[str(entry["request"])] = str(entry["answer"])

    def answer(self, messages, attempt: int) -> str:
        """What the model says to messages [{"role", "content"}], from the cache where it was asked before.

        attempt: 0 for the first try at a usable answer. Each is cached by itself, so that a request to which no usable
        answer came is not sent again in the next run either, unless that has more retries.
        Raises OutOfBudget, Unanswerable, and UserError where the server refuses everything or cannot be reached.
        """
        body = {"model": self.model, "messages": messages, "temperature": 0.7 if attempt else 0}
        body["response_format"] = {"type": "json_object"}
        digest = hashlib.sha256(json.dumps([self.url, body, attempt], sort_keys=True).encode()).hexdigest()
        if digest in self.cache:
            with self.lock:
                self.cached += 1
            return self.cache[digest]
        text = self.without_key(self.send(body))
        line = json.dumps({"request": digest, "answer": text}, ensure_ascii=False) + "\n"
        with self.lock:
            self.cache_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.cache_path, "a", encoding="utf-8", errors="replace", newline="\n") as file:
                if self.half_line:
                    file.write("\n")
                file.write(line)
            self.half_line = False
            self.cache[digest] = text
        return text

    def send(self, body) -> str:
        """What the model says to the request `body`, which is sent again where that may help.

        A failure before anything was answered ends the run, a UserError; later it concerns this request alone and is
        Unanswerable. Raises OutOfBudget, too.
        """
        try:
            return with_retries(lambda: self.post(body), self.policy, sleep=self.stopping.wait)
        except FailedTry as failure:
            if self.answers:
                raise Unanswerable(str(failure)) from failure
            self.stopping.set()
            proxy = proxy_of(self.url)
            through = f" through the proxy {proxy}" if proxy else ""
            todo = "run the same command again, it goes on where it was"
            raise UserError(f"{self.url} does not answer{through} ({failure})", todo) from failure

    def post(self, body) -> str:
        """What the model says to the request `body`, sent once. Raises FailedTry, or what `send` does."""
        with self.lock:
            if self.stopping.is_set() or self.sent >= self.max_requests:
                raise OutOfBudget
            self.sent += 1
        try:
            response = requests.post(
                self.url, json=body, auth=self.sign, timeout=self.timeout, stream=True, allow_redirects=False
            )
            content = self.content(response)
            if response.ok:
                text = str(json.loads(content)["choices"][0]["message"]["content"] or "")
                self.answers = True
                return text
        except requests.RequestException as error:
            raise FailedTry(type(error).__name__) from error
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise FailedTry("an answer that is not in the protocol") from error
        problem = f"HTTP status {response.status_code}"
        if self.policy.is_retry("POST", response.status_code):
            raise FailedTry(problem, response)
        if self.answers:
            raise Unanswerable(problem)
        self.stopping.set()
        reason = self.without_key(" ".join(content.decode("utf-8", "replace").split()))[:200]
        raise UserError(f"{self.url} refuses: {problem} {reason}", "check --base_url, --model and the key")

    def content(self, response) -> bytes:
        """The body of a response. Raises ValueError for one too long, or too slow, to be an answer."""
        content, until = b"", time.monotonic() + 20 * self.timeout
        for part in response.iter_content(1 << 10):
            content += part
            if len(content) > LONGEST_ANSWER or time.monotonic() > until:
                raise ValueError("no answer")
        return content

    def sign(self, request):
        """The request with the key in it, and with nothing that ~/.netrc may hold for the address."""
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def without_key(self, text) -> str:
        """`text` without the key, should the server have repeated it."""
        return text.replace(self.key, "***") if self.key else text


def is_address(url) -> bool:
    """Whether `url` is that of a server, by http or https, without a name and password in it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        return False


def seed_questions(book: Book, main_people: int, rng) -> list[str]:
    """All questions that SEEDS give about a book, in random order, one of each kind in turn.

    main_people: how many of the people are asked about, the most named. rng: a random.Random that draws.
    """
    text = "\n".join(section.text for section in book.sections)
    people = sorted(book.people, key=lambda name: -text.count(name))[:main_people]
    filled = {
        "book": [{"t": f"《{book.words.title}》" if book.words.title else "这部书"}],
        "person": [{"x": name} for name in people],
        "pair": [{"x": fact["x"][0], "y": fact["y"]} for fact in book.facts if fact["kind"] == "pair"],
        "episode": [{"x": line} for section in book.sections for line in section.title],
    }
    by_kind = [
        rng.sample(questions, len(questions))
        for kind, seeds in SEEDS.items()
        if (questions := [book.words.own(seed).format(**words) for words in filled[kind] for seed in seeds.split()])
    ]
    return [question for turn in itertools.zip_longest(*by_kind) for question in turn if question]


class Passages:
    """The book in pieces, found by what a question has in common with them: BM25 over pairs of characters."""

    def __init__(self, sections: Sequence[Section]):
        self.pieces = []
        for label, _, title, text in sections:
            place = f"（{label}）" if label else ""
            piece = " ".join(title) + "。" if title else ""
            for sentence in sentences(text):
                if len(piece) + len(sentence) > PASSAGE and piece:
                    self.pieces.append(place + piece)
                    piece = ""
                piece += sentence
            self.pieces.append(place + piece)
        self.index = bm25s.BM25()
        self.index.index([self.terms(piece) for piece in self.pieces], show_progress=False)

    def terms(self, text) -> list[str]:
        """The pairs of neighbouring characters in a text; a single character as it is."""
        return [text[i : i + 2] for i in range(len(text) - 1)] or [text]

    def found(self, question, count: int) -> list[str]:
        """The `count` pieces that fit a question best."""
        count = min(count, len(self.pieces))
        if not count:
            return []
        found, _ = self.index.retrieve([self.terms(question)], k=count, show_progress=False)
        return [self.pieces[number] for number in found[0]]


def request_of(questions, passages: Passages, count: int) -> list[dict]:
    """The messages that ask for answers to some questions at once, each with `count` passages that fit."""
    asked = []
    for number, question in enumerate(questions, 1):
        asked += [f"问题{number}：{question}", *(f"原文：{piece}" for piece in passages.found(question, count))]
    return [
        {"role": "system", "content": INSTRUCTION.format(n=len(questions))},
        {"role": "user", "content": "\n".join(asked)},
    ]


def answers_in(text, count: int) -> list[str] | None:
    """The `count` answers in what the model said, a list of texts; None where it said anything else."""
    try:
        value = json.loads(re.sub(r"^\s*```\w*|```\s*$", "", text))
    except (ValueError, RecursionError):
        return None
    answers = value.get("answers") if isinstance(value, dict) else value
    if not isinstance(answers, list) or len(answers) != count or not all(isinstance(each, str) for each in answers):
        return None
    return [each.strip() for each in answers]


def fault(answer, book_text) -> str | None:
    """Why an answer cannot be used, or None."""
    shortest, longest = QUOTE
    quotes = QUOTED.findall(answer)
    if not quotes or not all(shortest <= len(quote) <= longest for quote in quotes):
        return "quote nothing"
    return None if all(quote in book_text for quote in quotes) else "quote what is not in the book"


def ask(server: Server, questions, sections, passages_each: int, workers: int) -> tuple[dict[str, str], Counter]:
    """({question: answer} of those answered well, how many of the others are left out for which reason).

    passages_each: how many pieces of the book go with each question. workers: requests under way at once.
    Raises UserError where the server refuses or cannot be reached; what it answered is in its cache.
    """
    book_text = "\n".join(line for section in sections for line in (*section.title, section.text))
    passages = Passages(sections)
    groups = [questions[start : start + TOGETHER] for start in range(0, len(questions), TOGETHER)]

    def outcome(group):
        """[(question, answer or None, why it is left out or None)] of one group."""
        request = request_of(group, passages, passages_each)
        try:
            for attempt in range(server.retries + 1):
                if answers := answers_in(server.answer(request, attempt), len(group)):
                    return [(question, answer, fault(answer, book_text)) for question, answer in zip(group, answers)]
        except OutOfBudget:
            return [(question, None, "were not asked, for want of requests") for question in group]
        except Unanswerable as error:
            return [(question, None, f"the server did not answer ({error})") for question in group]
        return [(question, None, "came in another form or number than asked for") for question in group]

    kept, left_out = {}, Counter()
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(questions), unit=" questions", disable=None) as progress:
        try:
            for rows in pool.map(outcome, groups):
                for question, answer, why in rows:
                    if why:
                        left_out[why] += 1
                    else:
                        kept[question] = answer
                progress.update(len(rows))
        except BaseException:
            server.stopping.set()  # nothing more is sent, or what waits would still be
            raise
    return kept, left_out


def quoted_records(answers: dict, unseen_share: float, eval_questions: int, rng) -> dict[str, list[dict]]:
    """{file: its records} of {question: answer}: "questions" to be trained, "val", and "eval" with quotations as Keys.

    unseen_share: of the questions, which are not trained. eval_questions: of each group, at most.
    """
    records = [record(question, answer, "llm") for question, answer in answers.items()]
    held_out = rng.sample(records, round(unseen_share * len(records)))
    training = [each for each in records if each not in held_out]
    evaluation = [
        each | {"Key": QUOTED.findall(each["Answer"]), "Group": group}
        for group, members in (("seen", training), ("unseen", held_out))
        for each in at_most(eval_questions, members, rng)
    ]
    return {"questions": training, "val": at_most(eval_questions, held_out or training, rng), "eval": evaluation}
