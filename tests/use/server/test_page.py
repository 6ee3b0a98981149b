"""The page in headless Chromium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its chromedriver"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--window-size=1440,900"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(server, chromium) -> webdriver.Chrome:
    """The page with its key typed in."""
    chromium.get(server.url)
    until(chromium, lambda: shown(chromium, "key"))
    type_in(chromium, "key", server.key + Keys.TAB)
    until(chromium, lambda: text(chromium, "model") == "by tiny")
    return chromium


def until(driver: webdriver.Chrome, condition) -> None:
    WebDriverWait(driver, 30, poll_frequency=0.05).until(lambda _: condition())


def text(driver: webdriver.Chrome, name: str) -> str:
    return driver.find_element(By.ID, name).text


def shown(driver: webdriver.Chrome, name: str) -> bool:
    return driver.find_element(By.ID, name).is_displayed()


def type_in(driver: webdriver.Chrome, name: str, keys: str) -> None:
    field = driver.find_element(By.ID, name)
    field.clear()
    field.send_keys(keys)


def ranking(driver: webdriver.Chrome) -> list[tuple[str, float]]:
    rows = driver.find_elements(By.CSS_SELECTOR, "#ranking li")
    return [
        (row.find_element(By.CLASS_NAME, "text").text, float(row.find_element(By.CLASS_NAME, "score").text))
        for row in rows
    ]  # fmt: skip


def ranked(driver: webdriver.Chrome, lines: list[str], query: str) -> list[tuple[str, float]]:
    type_in(driver, "lines", "\n".join(lines))
    type_in(driver, "query", query + Keys.ENTER)
    until(driver, lambda: text(driver, "status").startswith("Ranked") or shown(driver, "error"))
    return ranking(driver)


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the browser objects to, other than the answer 401 that was provoked."""
    return [
        entry["message"] for entry in driver.get_log("browser") if " 401 " not in entry["message"]
    ]


def test_lines_are_ranked_as_the_encoder_ranks_them(page, encoder):
    lines = ["open a file", "bake bread", "read a file line by line", "the Moon"]
    query = "how to read a file"
    embeddings = encoder.encode_document(lines)
    scores = encoder.similarity(embeddings, encoder.encode_query(query))[:, 0].tolist()
    expected = sorted(zip(lines, scores, strict=True), key=lambda pair: -pair[1])
    found = ranked(page, lines, query)
    assert [line for line, _ in found] == [line for line, _ in expected]
    assert [score for _, score in found] == pytest.approx([s for _, s in expected], abs=2e-3)
    marks = page.find_elements(By.CSS_SELECTOR, "#map g text")
    assert sorted(mark.text for mark in marks) == ["1", "2", "3", "4", "query"]
    assert complaints(page) == []


def test_lines_are_shown_as_text_not_as_html(page):
    evil = "<img src=x onerror=\"document.title='taken'\">"
    found = ranked(page, [evil, "<script>document.title='taken'</script>", "bread"], evil)
    assert found[0][0] == evil
    assert page.find_elements(By.CSS_SELECTOR, "main img") == []
    assert page.title != "taken"
    assert complaints(page) == []


def test_a_line_that_is_reached_by_keyboard_is_marked_on_the_map(page):
    ranked(page, ["open a file", "bake bread", "the Moon"], "bread")
    page.find_element(By.ID, "go").send_keys(Keys.TAB + Keys.NULL)
    page.switch_to.active_element.send_keys(Keys.TAB)
    until(page, lambda: page.find_elements(By.CSS_SELECTOR, "#map g.picked"))
    (mark,) = page.find_elements(By.CSS_SELECTOR, "#map g.picked")
    active = page.switch_to.active_element
    assert mark.get_attribute("data-rank") == active.get_attribute("data-rank")
    assert text(page, "picked").startswith(f"{active.get_attribute('data-rank')}. ")


def test_errors_of_the_server_are_shown(page):
    assert ranked(page, ["x" * 100], " ") == []
    assert text(page, "error") == "Type a query."
    script = "document.getElementById('lines').value = arguments[0]"
    page.execute_script(script, "x" * 50_001)
    type_in(page, "query", "x" + Keys.ENTER)
    until(page, lambda: "50001 characters" in text(page, "error"))


def test_a_wrong_key_is_said(server, chromium):
    chromium.get(server.url)
    until(chromium, lambda: shown(chromium, "key"))
    type_in(chromium, "key", "wrong" + Keys.TAB)
    until(chromium, lambda: "wants its API key" in text(chromium, "error"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_nothing_sticks_out_in_any_scheme_or_size(page, scheme, width, height):
    emulated = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": emulated})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    until(page, lambda: page.execute_script("return innerWidth") == width)
    ranked(page, ["open a file", "a" * 300, "the Moon"], "how to read a file")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    ground = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 380) == (scheme == "light")
    if folder := os.environ.get("LLM2VEC_PL_SCREENSHOTS"):
        page.save_screenshot(str(Path(folder) / f"{scheme}-{width}.png"))
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
