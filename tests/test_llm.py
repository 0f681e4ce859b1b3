"""Questions answered by a language model: a server that errs, and llama.cpp's own with a model of ours."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import xllamacpp

KEY = "sk-very-secret"
BOOK = "".join(
    f"第{n}回 {title}\n却说{who}字{zi}，引兵{count}百，屯于{place}。{who}大喜，置酒饮之。次日拔寨都起。\n"
    for n, title, who, zi, count, place in (
        ("一", "李四起兵", "李四", "子明", "三", "白河"), ("二", "王五渡江", "王五", "文远", "五", "长阪"),
        ("三", "赵六守城", "赵六", "公达", "七", "新野"), ("四", "孙七归降", "孙七", "季常", "九", "南山"),
    )
)  # fmt: skip


class Oracle:
    """A chat completions server that answers with quotations of what it was shown, after some faults."""

    def __init__(self, faults=(), delay=0.0):
        """faults: what the first requests get instead: a status, "cut", "wrong count", "no quote", "invented"."""
        self.faults, self.delay, self.requests = list(faults), delay, []
        oracle = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                oracle.requests.append((self.path, self.headers["Authorization"], body))
                time.sleep(oracle.delay)
                fault = oracle.faults.pop(0) if oracle.faults else None
                status = fault if isinstance(fault, int) else 200
                reply = {"choices": [{"message": {"content": oracle.answer(body, fault)}}]}
                content = json.dumps(
                    reply if status == 200 else {"error": f"no, {self.headers['Authorization']}"}
                ).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                if fault == "cut":
                    content = content[: len(content) // 2]
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    @staticmethod
    def answer(body, fault):
        """What a good model would say."""
        asked = re.findall("问题.+?：(.+)\n原文：（(.+?)）.*?(却说.+?)，", body["messages"][1]["content"])
        answers = [f"见{label}：「{quote}」。" for _, label, quote in asked]
        if fault == "wrong count":
            answers = answers[1:]
        if fault == "no quote":
            answers[0] = "不知道。"
        if fault == "invented":
            answers[0] = "见第一回：「却说张三字无名」。"
        return f"```json\n{json.dumps({'answers': answers}, ensure_ascii=False)}\n```"


@pytest.fixture
def book(project):
    """data/tiny with a list of its people; no cache from another test."""
    project.write("data/tiny/input.txt", BOOK)
    people = {"李四": ["李四", "子明"], "王五": [], "赵六": [], "孙七": []}
    project.write("data/tiny/entities.json", json.dumps(people, ensure_ascii=False))
    (project.folder / "data/tiny_sft/llm_cache.jsonl").unlink(missing_ok=True)
    return project


def words(url, *more):
    """The command."""
    return [
        "data/build_sft.py",
        "tiny",
        "--backend=llm",
        f"--base_url={url}",
        "--model=oracle",
        "--questions=20",
        "--passages=1",
        "--title=群雄记",
        *more,
    ]


def lines(project, name):
    """The records of a file of the data set."""
    return [
        json.loads(line)
        for line in (project.folder / f"data/tiny_sft/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_faults_are_tried_again_and_nothing_is_paid_for_twice(book):
    """429, 500, half an answer, too few: all questions are answered in the end, and the next run asks nothing."""
    oracle = Oracle([429, 500, "cut", "wrong count"])
    done = book.run(*words(oracle.url, "--workers=1", "--unseen_share=0.2"), OPENAI_API_KEY=KEY)
    message = done.stdout
    assert KEY not in done.stdout + done.stderr
    assert "20 of 20 questions answered; 8 requests, 0 from the cache" in message and len(oracle.requests) == 8
    path, authorization, body = oracle.requests[0]
    assert (path, authorization, body["model"]) == ("/v1/chat/completions", f"Bearer {KEY}", "oracle")
    assert body["messages"][1]["content"].count("问题") == 5 and "原文：（第" in body["messages"][1]["content"]
    trained, evaluation = lines(book, "questions"), lines(book, "eval")
    assert len(trained) == 16 and {each["Group"] for each in evaluation} == {"seen", "unseen"}
    assert all(quote in BOOK for each in trained for quote in re.findall("「(.+?)」", each["Answer"]))
    assert all(each["Key"] == re.findall("「(.+?)」", each["Answer"]) for each in evaluation)
    again = book.run(*words(oracle.url, "--workers=1", "--unseen_share=0.2"), OPENAI_API_KEY=KEY).stdout
    assert "0 requests, 5 from the cache" in again and len(oracle.requests) == 8
    assert lines(book, "questions") == trained
    for file in book.folder.glob("data/tiny_sft/*"):
        assert KEY not in file.read_text(encoding="utf-8"), file


def test_answers_that_the_book_does_not_bear_out_are_dropped(book):
    """And counted by reason."""
    message = book.run(*words(Oracle(["no quote", "invented"]).url, "--workers=1")).stdout
    assert "18 of 20 questions answered" in message
    assert "left out: 1 that quote nothing" in message and "left out: 1 that quote what is not in the book" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_server_on_this_machine_is_asked_without_a_proxy(book, name, host):
    """llama.cpp and ollama are reached where all the rest goes through a proxy."""
    url = Oracle().url.replace("127.0.0.1", host)
    assert "20 of 20 questions answered" in book.run(*words(url), **{name: "http://127.0.0.1:9"}).stdout


def test_a_proxy_that_fails_is_named_without_its_password(book):
    """The variable that sets it, too."""
    proxy = {"HTTPS_PROXY": "http://me:sesame@127.0.0.1:9"}
    done = book.run(*words("https://example.invalid/v1", "--retries=0"), status=2, **proxy)
    assert "does not answer through the proxy http://127.0.0.1:9 of HTTPS_PROXY (ProxyError)" in done.stderr
    assert "sesame" not in done.stderr


def test_one_request_that_is_never_answered_does_not_stop_the_others(book):
    """Once the server has answered something, a refusal or an unending fault is counted and left out."""
    message = book.run(*words(Oracle([None, 400, 500, 500]).url, "--workers=1", "--retries=1")).stdout
    assert "10 of 20 questions answered; 5 requests" in message
    assert (
        "5 that the server did not answer (HTTP status 400)" in message
        and "5 that the server did not answer (HTTP status 500)" in message
    )


def test_the_budget_holds_and_the_next_run_goes_on(book):
    """With two requests ten questions are answered, then the other ten."""
    oracle = Oracle()
    message = book.run(*words(oracle.url, "--max_requests=2")).stdout
    assert "10 of 20 questions answered; 2 requests" in message and "10 that were not asked" in message
    assert "20 of 20 questions answered; 2 requests, 2 from the cache" in book.run(*words(oracle.url)).stdout
    assert len(oracle.requests) == 4


def test_a_killed_run_goes_on_where_it_was(book):
    """SIGKILL in the middle, and half a line in the cache: what was answered is not asked again."""
    oracle = Oracle(delay=0.3)
    process = subprocess.Popen(
        [sys.executable, *words(oracle.url, "--workers=1")], cwd=book.folder, stdout=subprocess.DEVNULL
    )
    cache = book.folder / "data/tiny_sft/llm_cache.jsonl"
    while not cache.exists() or cache.read_text(encoding="utf-8").count("\n") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL) if hasattr(signal, "SIGKILL") else process.kill()
    process.wait()
    answered = cache.read_text(encoding="utf-8").count("\n")
    with open(cache, "a", encoding="utf-8") as file:
        file.write('{"request": "ab')
    oracle.requests.clear()
    message = book.run(*words(oracle.url)).stdout
    assert f"20 of 20 questions answered; {4 - answered} requests, {answered} from the cache" in message
    assert "4 from the cache" in book.run(*words(oracle.url)).stdout


@pytest.mark.parametrize(
    "faults, more, message",
    [
        ([401] * 9, [], "HTTP status 401"),
        ([500] * 99, ["--retries=1"], "does not answer (HTTP status 500)"),
        (["wrong count"] * 99, ["--retries=1"], "no answer can be used"),
        ([], ["--model="], "no model is named"),
        ([], ["--base_url=nowhere"], "is no address"),
        ([], ["--base_url=http://[::1/v1"], "is no address"),
        ([], ["--base_url=https://me:sk-very-secret@example.com/v1"], "is no address"),
        ([], ["--base_url=http://example.com/v1"], "unencrypted"),
        ([], ["--base_url=http://127.0.0.1:9/v1", "--retries=0"], "does not answer (ConnectionError)"),
        ([], ["--backend=gpt"], "book, llm"),
    ],
)
def test_mistakes_are_told_without_the_key(book, faults, more, message):
    """In one line each; the server repeats the key, we do not; the questions that were there stay."""
    kept = book.write("data/tiny_sft/questions.jsonl", "as it was\n")
    done = book.run(*words(Oracle(faults).url, *more), status=2, OPENAI_API_KEY=KEY)
    assert message in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("error: ")
    assert KEY not in done.stderr + done.stdout and "Traceback" not in done.stderr
    assert kept.read_text(encoding="utf-8") == "as it was\n"


def test_llama_cpps_server_answers_with_a_model_of_ours(book):
    """A model that has learnt the answers by heart, exported and served by llama.cpp, in place of the oracle."""
    oracle = Oracle()
    book.run(*words(oracle.url, "--workers=1", "--questions=10"))
    expected = lines(book, "questions")
    talks = [
        {"messages": [*body["messages"], {"role": "assistant", "content": oracle.answer(body, None)[8:-4]}]}
        for _, _, body in oracle.requests
    ]
    book.write("data/talks.jsonl", "".join(json.dumps(talk, ensure_ascii=False) + "\n" for talk in talks * 8))
    book.run("data/prepare_sft.py", "data/talks.jsonl", "--dataset=talks", "--block_size=1024", "--pack=False")
    book.run(
        "train.py", "--dataset=talks", "--out_dir=out/talks", "--n_layer=2", "--n_head=2", "--n_embd=64",
        "--block_size=1024", "--batch_size=2", "--max_iters=150", "--eval_interval=150", "--eval_iters=1",
        "--optimizer=muon", "--learning_rate=1e-2", "--warmup_iters=5", "--dtype=float32",
    )  # fmt: skip
    book.run("export.py", "--out_dir=out/talks", "--save_path=talks.gguf")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.verbosity = str(book.folder / "talks.gguf"), 1, 0
    server = xllamacpp.Server(params)
    (book.folder / "data/tiny_sft/llm_cache.jsonl").unlink()
    message = book.run(*words(f"{server.listening_address}/v1", "--questions=10", "--workers=2")).stdout
    assert "10 of 10 questions answered; 2 requests" in message
    assert lines(book, "questions") == expected
