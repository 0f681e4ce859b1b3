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
from tools import HOTELS, LORA, SWAPPED, TALK, axe_script, free_port, idle, lines, seconds_computed, serve_page

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
    """The address of the page, on the small chat model; beside it stands one that is cut off."""
    broken = project.folder / "out/broken"
    shutil.copytree(project.folder / "out/talk", broken)
    for path in broken.glob("*.pt"):
        os.truncate(path, 1000)
    yield from (url for url, _ in serve_page(project, "out/talk"))
    shutil.rmtree(broken)


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

    def start(language="zh-CN", size="1280,900", downloads=None, phone=False, **media):
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for flag in [*FLAGS, f"--window-size={size}", f"--lang={language}"]:
            options.add_argument(flag)
        wanted = {"intl.accept_languages": language, "download.default_directory": str(downloads)}
        options.add_experimental_option("prefs", wanted)
        driver = shutil.which("chromedriver")
        opened.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver) if driver else None))
        if phone:  # narrower than Chromium's narrowest window
            shape = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
            opened[-1].execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
        wanted = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in media.items()]
        opened[-1].execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
        return opened[-1]

    yield start
    for each in opened:
        each.quit()


def wait_for(condition, seconds=60, what=""):
    """Wait until the condition gives something true; give it. what: is told where it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain: {what}")


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


def settled(text):
    """A text that is not empty and has not changed for a second."""
    seen = []

    def told_again():
        seen.append((time.monotonic(), text()))
        return seen[-1][1] and {said for when, said in seen if when > seen[-1][0] - 1} == {seen[-1][1]}

    wait_for(text)
    time.sleep(1)
    wait_for(told_again)
    return seen[-1][1]


def ask(browser, url, question):
    """Open the page, type a question, send it; a function that gives the conversation's text."""
    from selenium.webdriver.common.keys import Keys

    browser.get(url)
    box = find(browser, "#question textarea")
    time.sleep(1)  # gradio attaches its handlers a moment after it shows the box
    box.send_keys(question, Keys.ENTER)
    return text_of(browser, "#chatbot")


def ask_next(browser, question):
    """Type another question in place of what stands in the box, and send it."""
    from selenium.webdriver.common.keys import Keys

    box = find(browser, "#question textarea")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(question, Keys.ENTER)


def show_tab(browser, name):
    """Turn to one of the page's tabs."""
    find(browser, "button[role=tab]", name).click()
    time.sleep(1)


def open_tab(browser, url, name):
    """Open the page and one of its tabs."""
    browser.get(url)
    show_tab(browser, name)


def write_into(browser, box, text):
    """Write a text into a box in place of what stands there."""
    from selenium.webdriver.common.keys import Keys

    field = find(browser, box)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(text or Keys.BACKSPACE)


def choose_model(browser, box, name):
    """Choose a model in a list by what it is called."""
    from selenium.webdriver.common.keys import Keys

    write_into(browser, f"{box} input", name)
    find(browser, f"{box} input").send_keys(Keys.ENTER)


def open_talks(browser):
    """Open the list of talks at the side; a function that gives what stands in it."""
    find(browser, "button.toggle-button").click()
    time.sleep(1)  # it slides in
    names = "return [...document.querySelectorAll('#talks button')].map(button => button.textContent)"
    return lambda: browser.execute_script(names)


def start_with(browser, url, tab, box, question, button):
    """Open a tab of the page, write a question into its box in place of what stands there, press its button."""
    open_tab(browser, url, tab)
    write_into(browser, box, question)
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
    here = browser(downloads=tmp_path)
    (first, answer), second = TALK[0], "谁字孔明？<b>&amp;"
    conversation = ask(here, page, first)
    wait_for(lambda: answer in conversation())
    ask_next(here, second)
    wait_for(lambda: second in conversation() and conversation().split(second)[-1].strip())
    open_talks(here)
    find(here, "#save").click()
    saved = wait_for(lambda: list(tmp_path.glob("talks*.jsonl")))[0]
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 2
    assert messages[0]["content"] == first and messages[2]["content"] == second
    out = project.run("data/prepare_sft.py", saved, "--dataset=saved", "--tokenizer_from=data/sanguo_bpe").stdout
    assert "1" in out and (project.folder / "data/saved/train_mask.bin").exists()


def test_the_model_searches_a_table_in_a_talk(browser, hotel_page, tmp_path):
    """The call and what was found are shown before the answer, known in the next turn, and saved with their roles."""
    here = browser(downloads=tmp_path)
    conversation = ask(here, hotel_page, "我要住经济酒店。")
    wait_for(lambda: "请住如家酒店。" in conversation())
    assert '查：{"型": "经济"}' in conversation()
    ask_next(here, "多少钱？")
    wait_for(lambda: "每晚150元。" in conversation())
    open_talks(here)
    find(here, "#save").click()
    saved = wait_for(lambda: list(tmp_path.glob("talks*.jsonl")))[0]
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


LONG = "曹操" * 200
TROUBLES = {  # what goes wrong: (how, what is told)
    "blank": (lambda here, folder: ask_next(here, "   "), "先写点什么"),
    "too long": (lambda here, folder: ask_next(here, LONG), "太长了"),
    "a model that is cut off": (
        lambda here, folder: (choose_model(here, "#chat-model", "会问答的 · broken"), ask_next(here, "谁？")),
        "打不开",
    ),
    "nothing to go on from": (lambda here, folder: go(here, "续写", "#beginning textarea", "", "#continue-go"), "先写"),
    "compared with one that is cut off": (
        lambda here, folder: go(here, "对比", "#right-model input", "会问答的 · broken\n", "#compare-go"),
        "打不开",
    ),
    "nothing to compare": (lambda here, folder: go(here, "对比", "#both-asked textarea", "", "#compare-go"), "先写"),
    "too long to compare": (lambda here, folder: go(here, "对比", "#both-asked textarea", LONG, "#compare-go"), "太长"),
    "nothing to look into": (lambda here, folder: go(here, "看里面", "#looked-at textarea", "", "#inside-go"), "先写"),
    "a file that is no talk": (lambda here, folder: read_back(here, folder, '{"a": 1}\n'), "不是对话"),
    "a file that breaks off": (lambda here, folder: read_back(here, folder, '[{"messages": ['), "不是对话"),
    "an empty file": (lambda here, folder: read_back(here, folder, ""), "不是对话"),
}


def go(browser, tab, box, text, button):
    """Write something into a tab and press its button."""
    show_tab(browser, tab)
    write_into(browser, box, text)
    find(browser, button).click()


def read_back(browser, folder, text):
    """Have the page read back a file of talks."""
    path = folder / f"{len(text)}.jsonl"
    path.write_text(text, encoding="utf-8")
    browser.find_element("css selector", "input[type=file]").send_keys(str(path))


def test_what_goes_wrong_is_told_and_the_talk_goes_on(browser, page, tmp_path):
    """In the page's language; what was said before stays, and the next question is answered."""
    here = browser()
    conversation = ask(here, page, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    for number, (name, (provoke, told)) in enumerate(TROUBLES.items()):
        provoke(here, tmp_path)
        wait_for(lambda told=told: told in text_of(here, "body")(), what=name)
        here.execute_script("document.querySelectorAll('.toast-close').forEach(button => button.click())")
        wait_for(lambda: not here.find_elements("css selector", ".toast-body"))
        show_tab(here, "对话")
        if "model" in name:
            choose_model(here, "#chat-model", "会问答的 · talk")
        question, answer = TALK[1 + number % 3]
        answers = conversation().count(answer)
        ask_next(here, question)
        wait_for(lambda a=answer, n=answers: conversation().count(a) == n + 1, what=f"an answer after {name}")
        assert TALK[0][1] in conversation()


def test_the_server_goes_and_comes_back(browser, project, chat):
    """That is told, the talk and the question in the box stay, and then it is answered."""
    port = free_port()
    url, server = next(pages := serve_page(project, "out/talk", port=port))
    here = browser()
    conversation = ask(here, url, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    pages.close()
    ask_next(here, TALK[1][0])
    wait_for(lambda: "连不上模型了" in text_of(here, "body")())
    assert TALK[0][1] in conversation() and text_of(here, "#question textarea")() == TALK[1][0]
    here.execute_script("window.before = true")
    next(pages := serve_page(project, "out/talk", port=port))
    wait_for(lambda: not here.execute_script("return window.before"))  # the page loads itself anew
    wait_for(lambda: text_of(here, "#question textarea")() == TALK[1][0] and TALK[0][1] in conversation())
    time.sleep(1)
    find(here, "#question button").click()
    wait_for(lambda: TALK[1][1] in conversation())
    assert TALK[0][1] in conversation()
    pages.close()


def test_a_tab_tells_what_is_wrong_in_the_visitors_language(browser, page):
    """And what stands in its box stays."""
    here = browser("en-US")
    start_with(here, page, "Compare", "#both-asked textarea", LONG, "#compare-go")
    wait_for(lambda: "ask a shorter one" in text_of(here, "body")())
    assert text_of(here, "#both-asked textarea")() == LONG


def test_a_newcomer_has_an_answer_after_one_click(browser, page):
    """The welcome says what this is, and its examples can be clicked, or reached by the keyboard."""
    from selenium.webdriver.common.keys import Keys

    here = browser()
    here.get(page)
    assert "小语言模型" in find(here, "#welcome").text
    time.sleep(1)
    find(here, "#welcome button").click()
    conversation = text_of(here, "#chatbot")
    wait_for(lambda: len(conversation().splitlines()) > 1)
    assert not here.find_element("css selector", "#welcome").is_displayed()
    here.get(page)
    open_talks(here)
    find(here, "#new").click()
    find(here, "#question textarea").click()
    here.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    while not here.switch_to.active_element.get_attribute("data-question"):
        here.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    here.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for(lambda: len(conversation().splitlines()) > 1)


def test_an_earlier_question_is_asked_in_other_words(browser, page):
    """The talk goes on from there; what came behind it is gone."""
    here = browser()
    conversation = ask(here, page, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    ask_next(here, TALK[1][0])
    wait_for(lambda: TALK[1][1] in conversation())
    time.sleep(1)
    find(here, "#chatbot button[title=编辑]").click()
    write_into(here, "#chatbot textarea", TALK[2][0])
    find(here, "#chatbot button[title=发送]").click()
    wait_for(lambda: TALK[2][1] in conversation())
    assert TALK[0][1] not in conversation() and TALK[1][0] not in conversation()


def test_talks_are_kept_in_the_browser(browser, page, tmp_path):
    """Listed, renamed, opened again after a reload, saved as a file, deleted, and read back from it."""
    from selenium.webdriver.common.keys import Keys

    here = browser(downloads=tmp_path)
    conversation = ask(here, page, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    names = open_talks(here)
    wait_for(lambda: names() == [TALK[0][0]])
    write_into(here, "#talk-name input, #talk-name textarea", "<i>一</i> ${1} {{2}}")
    here.switch_to.active_element.send_keys(Keys.ENTER)
    wait_for(lambda: names() == ["<i>一</i> ${1} {{2}}"])
    find(here, "#new").click()
    wait_for(lambda: TALK[0][1] not in conversation())
    ask_next(here, TALK[1][0])
    wait_for(lambda: len(names()) == 2)
    here.refresh()
    wait_for(lambda: TALK[1][1] in conversation())  # the same talk is shown again
    names = open_talks(here)
    find(here, "#talks button", "一").click()
    wait_for(lambda: TALK[0][1] in conversation() and TALK[1][1] not in conversation())
    find(here, "#save").click()
    saved = wait_for(lambda: list(tmp_path.glob("talks*.jsonl")))[0]
    assert len(saved.read_text(encoding="utf-8").splitlines()) == 2
    find(here, "#forget").click()
    wait_for(lambda: len(names()) == 1 and TALK[0][1] not in conversation())
    here.find_element("css selector", "input[type=file]").send_keys(str(saved))
    wait_for(lambda: len(names()) == 3)
    ask_next(here, TALK[2][0])
    wait_for(lambda: TALK[2][1] in conversation())


def test_settings_are_kept_in_the_browser(browser, page):
    """Each tab has its own: the chat takes the likeliest, a beginning is gone on from more boldly."""
    value = "return document.querySelector('#{}-temperature input[type=number]').value"
    here = browser()
    here.get(page)
    find(here, "#chat-temperature")
    assert here.execute_script(value.format("chat")) == "0"
    show_tab(here, "续写")
    assert here.execute_script(value.format("continue")) == "0.8"
    write_into(here, "#continue-temperature input[type=number]", "0.3\t")
    time.sleep(1)
    open_tab(here, page, "续写")
    wait_for(lambda: here.execute_script(value.format("continue")) == "0.3")
    show_tab(here, "对比")
    assert here.execute_script(value.format("left")) == "0"


def test_a_model_is_called_what_it_is(browser, page):
    """Its directory stands behind its name."""
    here = browser()
    open_tab(here, page, "续写")
    box = "const box = [...document.querySelectorAll('.model input')].find(each => each.checkVisibility());"
    assert here.execute_script(f"{box} return box.value") == "只读过书的"
    hover = f"{box} box.dispatchEvent(new MouseEvent('mouseover', {{bubbles: true}})); return box.title"
    assert here.execute_script(hover).startswith("out/")


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


def test_a_reader_judges_and_a_reward_model_scores(browser, project, chat):
    """A click keeps which answer is better, as a pair that prepare_pairs.py reads; under an answer stands its score."""
    wrong = {"Question": TALK[0][0], "chosen": TALK[0][1], "rejected": TALK[1][1]}
    project.write("given.jsonl", (json.dumps(wrong) + "\n") * 8)
    words = ["--tokenizer_from=out/talk", "--block_size=127"]
    project.run("data/prepare_pairs.py", "given.jsonl", "--dataset=given", *words)
    project.run(
        "train.py", "--init_from=finetune", "--ckpt_dir=out/talk", "--dataset=given", "--objective=reward",
        "--out_dir=scorer/reward", "--max_iters=10", "--eval_iters=1", "--dtype=float32",
    )  # fmt: skip
    address, _ = next(pages := serve_page(project, "out/talk", "--reward=scorer/reward", "--judged=mine.jsonl"))
    here, (question, answer) = browser(), TALK[1]
    talk = ask(here, address, question)
    wait_for(lambda: answer in talk() and "评分" in text_of(here, "#speed")())
    start_with(here, address, "对比", "#both-asked textarea", question, "#better-0")
    wait_for(lambda: "没什么可比的" in text_of(here, "body")())
    find(here, "#compare-go").click()
    assert settled(text_of(here, "#right-answer textarea")) != answer
    find(here, "#better-0").click()
    wait_for(lambda: "mine.jsonl" in text_of(here, "#kept-pair")())
    pair = json.loads((project.folder / "mine.jsonl").read_text("utf-8"))
    assert pair["Question"] == question and pair["chosen"] == answer != pair["rejected"]
    wide = [words[0], "--block_size=512"]  # the other model goes on as long as it likes
    assert "kept 1 as" in project.run("data/prepare_pairs.py", "mine.jsonl", "--dataset=mine", *wide).stdout
    pages.close()


def test_adapters_are_chosen_on_the_page(browser, project, adapted):
    """Two on one model stand side by side, each with its own answers; the model without them is in the list."""
    others = [(question, TALK[place ^ 2][1]) for place, (question, _) in enumerate(TALK)]
    project.write("data/others.jsonl", lines(others) * 8)
    project.run("data/prepare_sft.py", "data/others.jsonl", "--dataset=others", "--block_size=128")
    project.run(*LORA, "--dataset=others", "--out_dir=adapters/others", "--max_iters=60", "--eval_interval=60")
    address, _ = next(pages := serve_page(project, "out/talk", "--lora=out/lora", "--lora=adapters/others"))
    here, (question, answer) = browser(), TALK[0]
    start_with(here, address, "对比", "#both-asked textarea", question, "#compare-go")
    wait_for(lambda: text_of(here, "#right-answer textarea")() == others[0][1])
    assert text_of(here, "#left-answer textarea")() == SWAPPED[0][1]
    choose_model(here, "#left-model", "会问答的")
    find(here, "#compare-go").click()
    wait_for(lambda: text_of(here, "#left-answer textarea")() == answer)
    pages.close()


def test_the_look_inside_shows_what_was_likely(browser, page):
    """A row a token with five candidates, probabilities and marks; what the model knows by heart is near 100 %."""
    here = browser("en-US")
    question, answer = TALK[1]
    open_tab(here, page, "Look inside")
    choose_model(here, "#inside-model", "answers questions · talk")
    write_into(here, "#inside-temperature input[type=number]", "0\t")
    write_into(here, "#looked-at textarea", question)
    find(here, "#inside-go").click()
    wait_for(lambda: "endoftext" in text_of(here, "#inside-table")())
    rows = here.execute_script(
        "return [...document.querySelectorAll('.inside tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    assert rows.pop(0) == ["Written", *(f"Number {rank}" for rank in range(1, 6))]
    assert "".join(row[0] for row in rows) == answer + "<|endoftext|>"
    assert all(len(row) == 6 and "greedy" in row[1] and "greedy" not in row[2] for row in rows)
    assert all(float(row[1].split("%")[0].split()[-1]) > 50 for row in rows)


def test_another_token_is_chosen_and_the_text_goes_on_from_it(browser, page):
    """With the model that has read books only, the page's own choice for this; what stood before it stays."""
    here = browser()
    open_tab(here, page, "看里面")
    find(here, "#inside-go").click()
    heads = "return [...document.querySelectorAll('.inside tbody th')].map(head => head.innerText)"
    wait_for(lambda: len(here.execute_script(heads)) > 20)
    find(here, "#inside-stop").click()
    time.sleep(2)
    wait_for(lambda: len(here.execute_script(heads)) > 20)
    before = here.execute_script(heads)
    other = "return [...document.querySelectorAll('.inside tbody tr')][2].querySelector('td:not(.taken) button')"
    wanted = here.execute_script(f"{other}.querySelector('b').innerText")
    here.execute_script(f"{other}.click()".removeprefix("return "))
    wait_for(lambda: here.execute_script(heads)[2:3] == [wanted])
    after = here.execute_script(heads)
    assert after[:2] == before[:2] and before[2] != wanted


def test_the_page_speaks_the_browsers_language_and_fits_a_phone(browser, page):
    """Chinese or English words; 390 pixels wide nothing sticks out."""
    for language, word in (("zh-CN", "看里面"), ("en-US", "Look inside")):
        here = browser(language)
        here.get(page)
        find(here, "button[role=tab]", word)
    here = browser(phone=True)
    conversation = ask(here, page, TALK[0][0])
    wait_for(lambda: TALK[0][1] in conversation())
    for tab in ("续写", "对比", "看里面"):
        show_tab(here, tab)
        assert here.execute_script("return document.documentElement.scrollWidth") <= 390, tab


@pytest.mark.parametrize("phone", [True, False], ids=["390", "1280"])
def test_everybody_can_use_the_page(browser, page, tmp_path, phone):
    """axe finds nothing serious, light or dark: at first sight, in a talk, in every tab, with the talks listed."""
    here = browser(phone=phone, color_scheme="dark", reduced_motion="reduce")
    axe = axe_script(tmp_path)

    def check():
        for scheme in ("light", "dark"):
            here.execute_script(f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})")
            found = here.execute_async_script("axe.run().then(result => arguments[0](result.violations))")
            serious = [each for each in found if each["impact"] in ("serious", "critical")]
            found = [(each["help"], [node["html"] for node in each["nodes"]]) for each in serious]
            assert not found, scheme

    here.get(page)
    find(here, "#welcome button")
    time.sleep(1)
    assert here.execute_script("return document.body.classList.contains('dark')")  # as the system is
    here.execute_script(axe)
    check()
    ask_next(here, TALK[0][0])
    wait_for(lambda: TALK[0][1] in text_of(here, "#chatbot")())
    check()
    for tab, button, shown in (
        ("续写", "#continue-go", "#continued textarea"),
        ("对比", "#compare-go", "#right-answer textarea"),
        ("看里面", "#inside-go", "#inside-table"),
    ):
        show_tab(here, tab)
        find(here, button).click()
        wait_for(lambda shown=shown: len(text_of(here, shown)()) > 20)
        check()
    find(here, "button.toggle-button").click()
    time.sleep(1)
    check()
    moved = "return getComputedStyle(document.querySelector('.sidebar')).transitionDuration"
    assert set(here.execute_script(moved).split(", ")) == {"0s"}


def test_nothing_jumps_while_text_streams(browser, slow_page):
    """The box, the button and the settings stay where they are."""
    places = """return [...document.querySelectorAll('#question, #chat-temperature')].map(
                each => Math.round(each.getBoundingClientRect().top))"""
    here = browser()
    conversation = ask(here, slow_page[0], "却说曹操")
    begun, seen = here.execute_script(places), []
    wait_for(lambda: seen.append(here.execute_script(places)) or len(conversation()) > 60)
    assert len(begun) == 2 and all(each == begun for each in seen)


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


def test_nobody_leaves_a_talk_while_it_is_answered(browser, slow_page):
    """The answer would be kept in another one's place: a click on a new talk, or on an old one, waits for its end."""
    here = browser()
    conversation = ask(here, slow_page[0], "却说曹操")
    wait_for(lambda: len(conversation()) > 30)
    names = open_talks(here)
    here.execute_script("document.querySelector('#new').click()")
    first = conversation()
    wait_for(lambda: "却说曹操" in conversation() and len(conversation()) > len(first))
    find(here, "#question [data-testid=stop-button]").click()
    wait_for(lambda: names() == ["却说曹操"])
    wait_for(lambda: not here.find_elements("css selector", "#question [data-testid=stop-button]"))  # it has ended
    here.execute_script("document.querySelector('#new').click()")
    wait_for(lambda: "却说曹操" not in conversation())
    assert names() == ["却说曹操"]


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
    assert [job.result(timeout=120) for job in jobs] == [answer for _, answer in asked]


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
