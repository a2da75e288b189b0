"""The page "Try it here" in a real browser: Debian's chromium and chromium-driver, or it is skipped."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.shell import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.external]

CTRL_C, TAB, UP, ENTER = "\x03", "\ue004", "\ue013", "\ue007"
WIDE, PHONE = (1200, 900), (390, 800)


class Site(SimpleHTTPRequestHandler):
    """Serves the site on the loopback; the class's attributes say what is wrong with it."""

    missing = "nothing"
    headers_too: dict[str, str] = {}

    def do_GET(self) -> None:
        if re.search(self.missing, self.path):
            self.send_error(404)
        else:
            super().do_GET()

    def end_headers(self) -> None:
        for name, value in self.headers_too.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".npm/node_modules/pyodide").is_dir():
        pytest.skip("needs npm's packages: make docs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", str(out / "trees"), str(ROOT / "docs")]
    subprocess.run([*command, str(out / "html")], check=True, timeout=200)
    return out / "html"


@pytest.fixture
def serve(site: Path) -> Iterator[Callable[..., str]]:
    """Serve the site, perhaps with something wrong; returns the page's address. Gone with the call's return value."""
    servers = []

    def start(missing: str = "nothing", **headers_too: str) -> str:
        headers = {name.replace("_", "-"): value for name, value in headers_too.items()}
        handler = type("Odd", (Site,), {"missing": missing, "headers_too": headers})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(site)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        start.stop = lambda: (server.shutdown(), server.server_close())  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{server.server_port}/try.html"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Browser:
    """A page in chromium, and what stands in its terminals."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def until(self, found: Callable[[], Any], what: str = "") -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60, poll_frequency=0.1).until(lambda _: found(), what)

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.until(lambda: self.find(".try-load").is_enabled())

    def load(self, url: str) -> None:
        self.open(url)
        self.find(".try-load").click()
        self.until(lambda: self.rows()[-1:] == ["(qemu)"] or self.state == "failed", self.line)
        assert self.state == "ready", self.line

    @property
    def state(self) -> str:
        return str(self.find("#hmp-try").get_attribute("data-state"))

    @property
    def line(self) -> str:
        return str(self.find(".try-line").text)

    def rows(self, number: int = 0) -> list[str]:
        script = """return [...(document.querySelectorAll('.try-screen')[arguments[0]]
            ?.querySelectorAll('.xterm-rows > div') ?? [])].map((row) => row.textContent)"""
        rows = [row.replace("\xa0", " ").rstrip() for row in self.driver.execute_script(script, number)]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def type(self, text: str, number: int = 0) -> None:
        self.driver.find_elements("css selector", ".try-screen textarea")[number].send_keys(text)

    def says(self, pattern: str, number: int = 0) -> None:
        """Wait until the screen matches; rows that were broken for their length are put together."""
        self.until(lambda: re.search(pattern, "".join(self.rows(number))), pattern)


@pytest.fixture
def browser() -> Iterator[Callable[..., Browser]]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromium-driver")
    drivers = []

    def start(size: tuple[int, int] = WIDE, *more: str) -> Browser:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *more):
            options.add_argument(each)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        drivers.append(driver)
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        return Browser(driver)

    yield start
    for driver in drivers:
        driver.quit()


Start = Callable[..., Browser]
Serve = Callable[..., str]


def test_load_ask_complete_recall_hang_and_ctrl_c(browser: Start, serve: Serve) -> None:
    page = browser()
    page.load(serve())
    page.type("info balloon" + ENTER)
    page.says(r"balloon: actual=64,.*total_mem=\d+\(qemu\)$")
    page.type("info statu" + TAB + ENTER)
    page.says(r"VM status: running\(qemu\)$")
    page.type(UP)
    page.says(r"\(qemu\) info status$")
    page.type(CTRL_C + "sim hang" + ENTER + "info balloon" + ENTER)
    page.says(r"waiting for the guest \.\.\. [1-4]\.\d s$")
    page.says(r",age=([5-9]\d{3}|\d{5})\(qemu\)$")  # since the last answer, which came before the hang
    page.type("info balloon" + ENTER)
    page.says(r"waiting for the guest \.\.\. \d\.\d s$")
    page.type(CTRL_C)
    page.says(r"\(qemu\) info balloon\(qemu\)$")
    origin = page.driver.current_url.rpartition("/")[0]
    sent = re.findall(r'"url":"([a-z]+://[^"]+)"', str(page.driver.get_log("performance")))
    assert [url for url in sent if url.startswith("http") and not url.startswith(origin)] == []
    said = [each["message"] for each in page.driver.get_log("browser") if each["level"] == "SEVERE"]
    assert [each for each in said if "favicon.ico" not in each] == []


def test_two_terminals_on_one_machine(browser: Start, serve: Serve) -> None:
    page = browser()
    page.load(serve())
    page.find(".try-second").click()
    page.says(r"\(qemu\)$", 1)
    page.type("stop" + ENTER)
    page.says(r"\[the VM is stopped\]\(qemu\)$", 1)
    page.type("info status" + ENTER, 1)
    page.says(r"VM status: paused\(qemu\)$", 1)


def test_on_a_phone_nothing_is_wider_than_the_screen_and_long_lines_are_edited(browser: Start, serve: Serve) -> None:
    page = browser(PHONE)
    page.load(serve())
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    page.type("x" * 60 + "\ue003" * 58 + "y")
    page.says(r"monitor - type 'help' for more information\(qemu\) xxy$")
    page.type(CTRL_C + "inf")
    page.find("[data-key='\\\\t']").click()
    page.type("status" + ENTER)
    page.says(r"\(qemu\) info statusVM status: running\(qemu\)$")


def test_without_a_connection_the_page_works_again(browser: Start, serve: Serve) -> None:
    page = browser()
    url = serve()
    page.load(url)
    page.until(lambda: page.find("#hmp-try").get_attribute("data-kept") == "yes", "kept")
    serve.stop()  # type: ignore[attr-defined]
    page.load(url)
    page.type("info status" + ENTER)
    page.says(r"VM status: running\(qemu\)$")


def test_a_paste_of_10_mb_is_refused_in_one_line(browser: Start, serve: Serve) -> None:
    page = browser()
    page.load(serve())
    script = """const given = new DataTransfer(); given.setData('text/plain', 'quit\\n'.repeat(2e6));
        document.querySelector('.try-screen textarea').dispatchEvent(
            new ClipboardEvent('paste', {clipboardData: given, bubbles: true}));"""
    page.driver.execute_script(script)
    page.until(lambda: page.line == "too much at once: 10,000,000 bytes; 65,536 may wait to be read, paste it in parts")
    page.type("info status" + ENTER)
    page.says(r"VM status: running\(qemu\)$")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"missing": r"\.whl$"}, r"hmp_emulator-.*\.whl could not be loaded \(404\)"),
        ({"missing": r"made\.json$"}, r"made\.json could not be loaded"),
        ({"missing": r"worker\.js$"}, r"the worker did not start"),
        ({"Content_Security_Policy": "worker-src 'none'"}, r"worker"),
    ],
    ids=["no wheel", "no list", "no worker", "worker blocked"],
)
def test_what_cannot_be_loaded_is_said_in_one_line(
    browser: Start, serve: Serve, wrong: dict[str, str], words: str
) -> None:
    page = browser()
    page.open(serve(**wrong))
    page.find(".try-load").click()
    page.until(lambda: page.state == "failed")
    assert re.search(words, page.line)
    assert "\n" not in page.line


def test_without_webassembly_and_with_too_much_memory(browser: Start, serve: Serve) -> None:
    page = browser()
    page.open(serve())
    page.driver.execute_script("delete window.WebAssembly")
    page.find(".try-load").click()
    page.until(lambda: "no WebAssembly" in page.line)
    page.open(page.driver.current_url)
    page.find("[name=ram]").clear()
    page.find("[name=ram]").send_keys("8G")
    page.find(".try-load").click()
    page.until(lambda: page.state == "refused")
    assert re.match(r"cannot map 8589934592 bytes of guest memory: .*reload the page to start afresh\.$", page.line)
    page.find("[name=ram]").clear()
    page.find("[name=ram]").send_keys("32M")
    page.find(".try-load").click()
    page.says(r"\(qemu\)$")
    page.type("info balloon" + ENTER)
    page.says(r"balloon: actual=32,")
