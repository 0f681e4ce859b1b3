"""The pictures of the page in README and docs, made anew with a real browser.

python docs/pictures.py out/demo-chat     # writes docs/page.png, inside.png, phone.png and talk.gif

Needs the test requirements, Chromium and chromedriver, and a Chinese font.
"""

import io
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

DOCS = Path(__file__).parent
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
QUESTION = "董卓是谁杀的？"
COLOURS = 48  # of the animation
STEP = 0.12  # seconds between its frames


def serve(out_dir):
    """Start the page on a model: (its process, its address)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "sample_gradio.py", f"--out_dir={out_dir}", f"--port={port}"])
    address = f"http://127.0.0.1:{port}"
    while server.poll() is None:
        try:
            requests.get(address, timeout=5)
            return server, address
        except requests.RequestException:
            time.sleep(0.2)
    raise SystemExit("the page did not start; see what it said above")


def open_page(address, width, height, phone=False):
    """A browser of that size, in pixels, on the page."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in [*FLAGS, "--lang=zh-CN", f"--window-size={width},{height}"]:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": "zh-CN"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    browser.get(address)
    time.sleep(4)
    return browser


def element(browser, selector):
    """The first element of a CSS selector that is in sight."""
    return next(each for each in browser.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed())


def show_tab(browser, number):
    """Turn to a tab."""
    browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")[number].click()
    time.sleep(1)


def ask(browser, question):
    """Ask in the chat, and wait for the answer."""
    element(browser, "#question textarea").send_keys(question, Keys.ENTER)
    time.sleep(4)


def talk(browser):
    """The frames of a talk: a question is typed, the answer comes, a place of the book is opened."""
    frames = []

    def film(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            frames.append(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
            time.sleep(STEP)

    film(1)
    box = element(browser, "#question textarea")
    for character in QUESTION:
        box.send_keys(character)
        film(STEP)
    box.send_keys(Keys.ENTER)
    film(4)
    element(browser, "#rests-on summary").click()
    film(2.5)
    return frames


def write_gif(path, frames):
    """An animation of frames; those that are alike are shown longer."""
    kept, lengths = [], []
    for frame in frames:
        if kept and frame.tobytes() == kept[-1].tobytes():
            lengths[-1] += int(1000 * STEP)
        else:
            kept.append(frame)
            lengths.append(int(1000 * STEP))
    palette = kept[-1].quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    drawn = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in kept]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=lengths, loop=0, optimize=True)


def main(out_dir):
    """Make them all."""
    server, address = serve(out_dir)
    try:
        browser = open_page(address, 1280, 860)
        ask(browser, "你好呀！")
        ask(browser, QUESTION)
        browser.save_screenshot(str(DOCS / "page.png"))
        show_tab(browser, 3)
        element(browser, "#inside-go").click()
        time.sleep(5)
        browser.execute_script("document.querySelector('#inside-go').scrollIntoView()")
        time.sleep(0.5)
        browser.save_screenshot(str(DOCS / "inside.png"))
        browser.quit()
        browser = open_page(address, 390, 844, phone=True)
        browser.save_screenshot(str(DOCS / "phone.png"))
        browser.quit()
        browser = open_page(address, 1000, 640)
        write_gif(DOCS / "talk.gif", talk(browser))
        browser.quit()
    finally:
        server.kill()
    for path in sorted(DOCS.glob("*.gif")) + [DOCS / f"{name}.png" for name in ("page", "inside", "phone")]:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "out/demo-chat")
