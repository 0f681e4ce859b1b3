"""The chat page in a real browser."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import requests
import torch

from miniglm.book.passages import copy_book
from miniglm.checkpoint import Checkpoint, save_checkpoint
from miniglm.tokenizer import Tokenizer
from miniglm.vocabulary import fingerprint
from model import GLMConfig, MiniGLM
from tools import HOTELS, LORA, SWAPPED, TALK, lines, serve_page

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


@pytest.fixture(scope="module")
def page(project, chat):
    """The address of the page, on the small chat model."""
    yield from (url for url, _ in serve_page(project, "out/talk"))


@pytest.fixture
def hotel_page(hotel):
    """The address of the page, on the model that has learnt to search, with its table."""
    hotel.write("hotels.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in HOTELS))
    yield from (url for url, _ in serve_page(hotel, "out/hotel", "--table=hotels.jsonl"))


@pytest.fixture(scope="module")
def slow_page(project):
    """(address, process) of the page on a 45M model that has learnt nothing: some seconds for an answer."""
    model, tokenizer = MiniGLM(GLMConfig()), Tokenizer.gpt2()
    checkpoint = Checkpoint(model.state_dict(), vars(model.config), {}, False, fingerprint(tokenizer))
    save_checkpoint(project.folder / "out/slow", checkpoint, tokenizer)
    yield from serve_page(project, "out/slow")
    shutil.rmtree(project.folder / "out/slow")


@pytest.fixture
def browser():
    """Starts headless Chromium. A reader without one skips these tests; CI must have one."""
    from selenium import webdriver

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        assert not os.environ.get("CI"), "CI must have a browser: .ci/run installs chromium and chromium-driver"
        pytest.skip("no Chromium on this machine (Debian: apt install chromium chromium-driver)")
    opened = []

    def start(language="zh-CN", size="1100,900", downloads=None):
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in [*FLAGS, f"--window-size={size}", f"--lang={language}"]:
            options.add_argument(flag)
        wanted = {"intl.accept_languages": language, "download.default_directory": str(downloads)}
        options.add_experimental_option("prefs", wanted)
        driver = shutil.which("chromedriver")
        opened.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver) if driver else None))
        return opened[-1]

    yield start
    for each in opened:
        each.quit()


def wait_for(condition, seconds=60):
    """Wait until the condition gives something true; give it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def find(browser, selector, within=None):
    """The first visible element of a CSS selector, waited for; `within` its text where several are alike."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By

    def visible():
        try:
            found = browser.find_elements(By.CSS_SELECTOR, selector)
            return [e for e in found if e.is_displayed() and (within is None or within in e.text)]
        except StaleElementReferenceException:
            return []

    return wait_for(visible)[0]


def text_of(browser, selector):
    """A function that gives the text of an element, or its value where it is a box to write in."""
    script = "const e = document.querySelector(arguments[0]); return e ? e.value || e.innerText || '' : ''"
    return lambda: browser.execute_script(script, selector)


def ask(browser, url, question):
    """Open the page, type a question, send it; a function that gives the conversation's text."""
    from selenium.webdriver.common.keys import Keys

    browser.get(url)
    box = find(browser, "#question textarea")
    time.sleep(1)  # gradio attaches its handlers a moment after it shows the box
    box.send_keys(question, Keys.ENTER)
    return text_of(browser, "#chatbot")


def open_tab(browser, url, name):
    """Open the page and one of its tabs."""
    browser.get(url)
    find(browser, "button[role=tab]", name).click()
    time.sleep(1)


def start_with(browser, url, tab, box, question, button):
    """Open a tab of the page, write a question into its box in place of what stands there, press its button."""
    from selenium.webdriver.common.keys import Keys

    open_tab(browser, url, tab)
    field = find(browser, box)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(question)
    find(browser, button).click()


def test_a_question_is_answered_and_asked_again(browser, page):
    """Typed, sent, answered with what the model was taught, the speed shown; retry answers again, undo takes back."""
    question, answer = TALK[0]
    here = browser()
    conversation = ask(here, page, question)
    wait_for(lambda: answer in conversation())
    assert question in conversation() and "\ufffd" not in conversation()
    wait_for(lambda: "token/s" in text_of(here, "#speed")())
    find(here, "#chatbot button[title=重试]").click()
    time.sleep(1)
    wait_for(lambda: conversation().count(answer) == 1)
    find(here, "#chatbot button[title=撤销]").click()
    wait_for(lambda: answer not in conversation())
    assert text_of(here, "#question textarea")() == question


def test_a_conversation_is_saved_as_training_data(browser, page, project, tmp_path):
    """Two turns, HTML signs among them, come back through data/prepare_sft.py."""
    from selenium.webdriver.common.keys import Keys

    here = browser(downloads=tmp_path)
    (first, answer), second = TALK[0], "谁字孔明？<b>&amp;"
    conversation = ask(here, page, first)
    wait_for(lambda: answer in conversation())
    time.sleep(1)
    find(here, "#question textarea").send_keys(second, Keys.ENTER)
    wait_for(lambda: second in conversation() and conversation().split(second)[-1].strip())
    time.sleep(1)
    find(here, "#save").click()
    saved = wait_for(lambda: list(tmp_path.glob("conversation*.jsonl")))[0]
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 2
    assert messages[0]["content"] == first and messages[2]["content"] == second
    out = project.run("data/prepare_sft.py", saved, "--dataset=saved", "--tokenizer_from=data/sanguo_bpe").stdout
    assert "1" in out and (project.folder / "data/saved/train_mask.bin").exists()


def test_the_model_searches_a_table_in_a_talk(browser, hotel_page, tmp_path):
    """The call and what was found are shown before the answer, known in the next turn, and saved with their roles."""
    from selenium.webdriver.common.keys import Keys

    here = browser(downloads=tmp_path)
    conversation = ask(here, hotel_page, "我要住经济酒店。")
    wait_for(lambda: "请住如家酒店。" in conversation())
    assert '查：{"型": "经济"}' in conversation()
    time.sleep(1)
    find(here, "#question textarea").send_keys("多少钱？", Keys.ENTER)
    wait_for(lambda: "每晚150元。" in conversation())
    time.sleep(1)
    find(here, "#save").click()
    saved = wait_for(lambda: list(tmp_path.glob("conversation*.jsonl")))[0]
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [turn["role"] for turn in messages] == ["user", "search", "return", "assistant", "user", "assistant"]
    assert json.loads(messages[2]["content"]) == [HOTELS[1]]


def test_under_an_answer_stands_where_the_book_says_it(browser, project, chat):
    """The chapter and the sentence; a click opens the chapter there, with the sentence marked."""
    folder = project.folder / "out/talk-book"
    shutil.copytree(project.folder / "out/talk", folder)
    copy_book(project.folder / "data/sanguo_sft", folder)
    for path in folder.glob("*.pt"):  # it has learnt what it answers, and may look into the book
        torch.save(torch.load(path, weights_only=True) | {"searches": True}, path)
    address, _ = next(pages := serve_page(project, "out/talk-book"))
    here, (question, answer) = browser(), TALK[0]
    conversation = ask(here, address, question)
    wait_for(lambda: answer in conversation())
    place = find(here, "#rests-on summary", "第一回")
    assert "翼德" in place.text
    place.click()
    chapter = find(here, "#rests-on .chapter").text
    assert "翼德" in find(here, "#rests-on .chapter mark").text and len(chapter) > 1000
    inside = """const box = document.querySelector(".chapter").getBoundingClientRect();
                const mark = document.querySelector(".chapter mark").getBoundingClientRect();
                return mark.top >= box.top && mark.bottom <= box.bottom"""
    wait_for(lambda: here.execute_script(inside))
    pages.close()
    shutil.rmtree(folder)


def test_what_is_typed_is_shown_as_text(browser, page):
    """HTML in a question does not run."""
    here = browser()
    conversation = ask(here, page, "<img src=x onerror=\"document.title='ran'\"><b>粗</b>张飞字什么？")
    wait_for(lambda: "<b>粗</b>" in conversation())
    time.sleep(1)
    assert here.title != "ran"


@pytest.mark.parametrize("question, told", [("   ", "先写点什么"), ("曹操" * 200, "太长了")], ids=["blank", "long"])
def test_what_cannot_be_answered_is_told_and_the_talk_goes_on(browser, page, question, told):
    """In the page's language; what was said before stays, and the next question is answered."""
    from selenium.webdriver.common.keys import Keys

    here = browser()
    conversation = ask(here, page, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    time.sleep(1)
    box = find(here, "#question textarea")
    box.send_keys(question, Keys.ENTER)
    wait_for(lambda: told in here.page_source)
    time.sleep(1)
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(TALK[1][0], Keys.ENTER)
    wait_for(lambda: TALK[1][1] in conversation())
    assert TALK[0][1] in conversation()


def test_a_tab_tells_what_is_wrong_in_the_visitors_language(browser, page):
    """And what stands in its box stays."""
    for language, told in (("zh-CN", "太长了"), ("en-US", "ask a shorter one")):
        here = browser(language)
        tab = "看里面" if language == "zh-CN" else "Look inside"
        start_with(here, page, tab, "#looked-at textarea", "曹操" * 200, "#inside-go")
        wait_for(lambda here=here, told=told: told in here.page_source)
        assert text_of(here, "#looked-at textarea")() == "曹操" * 200


def test_the_novel_goes_on_from_a_beginning(browser, page):
    """With a pretrained model found beside the page's own; the text begins with what was given."""
    here = browser()
    open_tab(here, page, "续写")
    find(here, "#continue-go").click()
    text = text_of(here, "#continued textarea")
    wait_for(lambda: len(text()) > 20)
    assert text().startswith("却说曹操")


def test_two_models_answer_the_same_question(browser, page):
    """Side by side: the one that was taught, and another."""
    here = browser()
    question, answer = TALK[1]
    start_with(here, page, "对比", "#both-asked textarea", question, "#compare-go")
    other = wait_for(text_of(here, "#right-answer textarea"))  # it begins when the left one has ended
    assert text_of(here, "#left-answer textarea")() == answer != other


def test_adapters_are_chosen_on_the_page(browser, project, adapted):
    """Two on one model stand side by side, each with its own answers; the model without them is in the list."""
    from selenium.webdriver.common.keys import Keys

    others = [(question, TALK[place ^ 2][1]) for place, (question, _) in enumerate(TALK)]
    project.write("data/others.jsonl", lines(others) * 8)
    project.run("data/prepare_sft.py", "data/others.jsonl", "--dataset=others", "--block_size=128")
    project.run(*LORA, "--dataset=others", "--out_dir=adapters/others", "--max_iters=60", "--eval_interval=60")
    address, _ = next(pages := serve_page(project, "out/talk", "--lora=out/lora", "--lora=adapters/others"))
    here, (question, answer) = browser(), TALK[0]
    start_with(here, address, "对比", "#both-asked textarea", question, "#compare-go")
    wait_for(lambda: text_of(here, "#right-answer textarea")() == others[0][1])
    assert text_of(here, "#left-answer textarea")() == SWAPPED[0][1]
    chosen = find(here, "#left-model input")
    chosen.send_keys(Keys.CONTROL, "a")
    chosen.send_keys("out/talk", Keys.ENTER)
    find(here, "#compare-go").click()
    wait_for(lambda: text_of(here, "#left-answer textarea")() == answer)
    pages.close()


def test_the_look_inside_shows_what_was_likely(browser, page):
    """A row a token with five candidates, probabilities and marks; what the model knows by heart is near 100 %."""
    here = browser("en-US")
    question, answer = TALK[1]
    start_with(here, page, "Look inside", "#looked-at textarea", question, "#inside-go")
    wait_for(lambda: "endoftext" in text_of(here, "#inside-table")())
    rows = here.execute_script(
        "return [...document.querySelectorAll('.inside tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert "".join(row[0] for row in rows) == answer + "<|endoftext|>"
    assert all(len(row) == 6 and "greedy" in row[1] and "greedy" not in row[2] for row in rows)
    assert all(float(row[1].split("%")[0].split()[-1]) > 50 for row in rows)


def test_the_page_speaks_the_browsers_language_and_fits_a_phone(browser, page):
    """Chinese or English words; 390 pixels wide nothing sticks out."""
    for language, word in (("zh-CN", "看里面"), ("en-US", "Look inside")):
        here = browser(language)
        here.get(page)
        find(here, "button[role=tab]", word)
    here = browser(size="500,900")  # Chromium's narrowest window
    here.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    )
    conversation = ask(here, page, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    assert here.execute_script("return document.documentElement.scrollWidth") <= 390


def seconds_computed(server):
    """CPU seconds that the server has used so far."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")")[-1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(server):
    """Whether the server computes next to nothing for a second."""
    before = seconds_computed(server)
    time.sleep(1)
    return seconds_computed(server) - before < 0.3


def test_an_answer_streams_until_it_is_stopped(browser, slow_page):
    """It grows while it is shown; the stop button ends it, and the model has nothing more to do."""
    url, server = slow_page
    here = browser()
    conversation = ask(here, url, "却说曹操")
    first = wait_for(lambda: len(conversation()) > 30 and conversation())
    wait_for(lambda: len(conversation()) > len(first))
    find(here, "#question [data-testid=stop-button]").click()
    time.sleep(1)
    stopped = conversation()
    wait_for(lambda: idle(server), 10)
    assert conversation() == stopped


@pytest.mark.skipif(not Path("/proc").exists(), reason="CPU time is read from /proc")
def test_who_closes_the_page_frees_the_model(browser, slow_page):
    """A generation whose reader has gone does not go on to its end."""
    url, server = slow_page
    here = browser()
    conversation = ask(here, url, "却说曹操")
    wait_for(lambda: len(conversation()) > 30)
    here.quit()
    started = seconds_computed(server)
    wait_for(lambda: idle(server), 10)
    assert seconds_computed(server) - started < 6, "200 tokens would have taken longer"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "socks://127.0.0.1:9", "http://[::1"])
def test_the_page_opens_whatever_proxy_is_set(project, chat, proxy):
    """One where nothing listens, one that httpx cannot speak to, one that is no address: this machine needs none."""
    names = ("HTTP_PROXY", "https_proxy", "ALL_PROXY")
    for url, _ in serve_page(project, "out/talk", **dict.fromkeys(names, proxy)):
        assert "MiniGLM" in requests.get(url, timeout=20).text


def test_sixteen_visitors_get_their_own_answers(page):
    """All at once, over the page's own protocol: nobody is given another's answer."""
    from gradio_client import Client

    clients = [Client(page, verbose=False) for _ in range(16)]
    asked = [TALK[i % len(TALK)] for i in range(16)]
    jobs = [client.submit(question, api_name="/chat") for client, (question, _) in zip(clients, asked)]
    assert [job.result(timeout=120)[0] for job in jobs] == [answer for _, answer in asked]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--host=0.0.0.0"], "MINIGLM_AUTH=NAME:PASSWORD"),
        (["--share"], "MINIGLM_AUTH=NAME:PASSWORD"),
        (["--auth=secret"], "--auth=NAME:PASSWORD"),
        (["--out_dir=out/nowhere"], "train first"),
        (["--port=0"], "at least 1"),
    ],
)
def test_mistakes_are_told(project, chat, words, message):
    """The page is closed by default, and says what it needs."""
    assert message in project.fails("sample_gradio.py", "--out_dir=out/talk", *words)


def test_a_taken_port_is_told(project, page):
    """In one line."""
    words = ["--out_dir=out/talk", f"--port={page.rsplit(':')[-1]}"]
    assert "choose another --port" in project.fails("sample_gradio.py", *words, process=True)
