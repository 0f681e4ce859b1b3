"""The chat page in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import requests
from conftest import TALK

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
    """The address of the page, served on the small chat model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "sample_gradio.py", "--out_dir=out/talk", f"--port={port}"],
        cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    for _ in range(240):
        assert server.poll() is None, server.stdout.read().decode()
        try:
            requests.get(url, timeout=5)
            break
        except requests.RequestException:
            time.sleep(0.5)
    yield url
    server.kill()
    server.wait()


@pytest.fixture
def browser():
    """Headless Chromium. A reader without one skips these tests; CI must have one."""
    from selenium import webdriver

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        assert not os.environ.get("CI"), "CI must have a browser: .ci/run installs chromium and chromium-driver"
        pytest.skip("no Chromium on this machine (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS, "--window-size=1100,900"]:
        options.add_argument(flag)
    driver = shutil.which("chromedriver")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver) if driver else None)
    yield browser
    browser.quit()


def wait_for(condition, seconds=60):
    """Wait until the condition gives something true; give it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def ask(browser, url, question):
    """Open the page, type a question, send it; a function that gives the conversation's text."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(url)
    box = wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#question textarea"))[0]
    wait_for(box.is_displayed)
    time.sleep(1)  # gradio attaches its handlers a moment after it shows the box
    box.send_keys(question, Keys.ENTER)

    def conversation():
        try:
            return browser.find_element(By.ID, "chatbot").text
        except WebDriverException:
            return ""

    return conversation


def test_a_question_is_answered(browser, page, tmp_path):
    """Typed, sent, answered with what the model was taught; the speed is shown."""
    question, answer = TALK[0]
    conversation = ask(browser, page, question)
    wait_for(lambda: answer in conversation())
    assert question in conversation() and "\ufffd" not in conversation()
    wait_for(lambda: "token/秒" in browser.page_source)
    assert browser.save_screenshot(str(tmp_path / "page.png"))


def test_what_is_typed_is_shown_as_text(browser, page):
    """HTML in a question does not run."""
    conversation = ask(browser, page, "<img src=x onerror=\"document.title='ran'\"><b>粗</b>张飞字什么？")
    wait_for(lambda: "<b>粗</b>" in conversation())
    time.sleep(1)
    assert browser.title != "ran"


def test_a_question_longer_than_the_block_is_told(browser, page):
    """A clear line instead of a crash; the page goes on working."""
    ask(browser, page, "曹操" * 200)
    assert wait_for(lambda: "ask a shorter one" in browser.page_source)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--host=0.0.0.0"], "--auth=NAME:PASSWORD"),
        (["--share"], "--auth=NAME:PASSWORD"),
        (["--auth=secret"], "--auth=NAME:PASSWORD"),
        (["--out_dir=out/nowhere"], "train first"),
        (["--port=0"], "at least 1"),
    ],
)
def test_mistakes_are_told(project, chat, words, told):
    """The page is closed by default, and says what it needs."""
    assert told in project.fails("sample_gradio.py", "--out_dir=out/talk", *words)


def test_a_taken_port_is_told(project, page):
    """In one line."""
    assert "choose another --port" in project.fails(
        "sample_gradio.py", "--out_dir=out/talk", f"--port={page.rsplit(':')[-1]}"
    )
