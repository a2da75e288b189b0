"""The site in a real browser, "Try it here" above all: Debian's chromium and chromium-driver, or it is skipped."""

from __future__ import annotations

import html
import json
import os
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

from device.guest.table import PROFILES
from tests.support.shell import ROOT, shell
from tests.test_docs import FENCE
from tests.test_readme import BLOCK, commands

pytestmark = [pytest.mark.slow, pytest.mark.external]

DOCS = ROOT / "docs"
CTRL_C, TAB, UP, ENTER = "\x03", "\ue004", "\ue013", "\ue007"
TOLD = re.compile(r"^\[(?:balloon target reached: \d+ MiB|snapshot good is done|guest panic: .*)\]\n", re.MULTILINE)
"""What a person is told above the prompt, and --echo does not show."""
WIDE, PHONE = (1200, 900), (360, 800)


class Site(SimpleHTTPRequestHandler):
    """Serves the site on the loopback; the class's attributes say what is wrong with it."""

    missing = damaged = "nothing"
    headers_too: dict[str, str] = {}

    def do_GET(self) -> None:
        if re.search(self.missing, self.path):
            self.send_error(404)
        elif re.search(self.damaged, self.path):
            self.send_response(200)
            self.send_header("Content-Type", self.guess_type(self.path))
            self.end_headers()
            self.wfile.write(b"PK\x03\x04 but no archive" * 100)
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

    def start(missing: str = "nothing", page: str = "try.html", damaged: str = "nothing", **headers_too: str) -> str:
        headers = {name.replace("_", "-"): value for name, value in headers_too.items()}
        handler = type("Odd", (Site,), {"missing": missing, "damaged": damaged, "headers_too": headers})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(site)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        start.stop = lambda: (server.shutdown(), server.server_close())  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{server.server_port}/{page}"

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
        self.until(lambda: self.lines()[-1:] == ["(qemu)"] or self.state == "failed", self.line)
        assert self.state == "ready", self.line

    @property
    def state(self) -> str:
        return str(self.find("#hmp-try").get_attribute("data-state"))

    @property
    def line(self) -> str:
        return str(self.find(".try-line").text)

    def lines(self, number: int = 0) -> list[str]:
        """All that a terminal shows and what has moved out of it; broken lines are whole."""
        script = """const buffer = document.querySelectorAll('.try-screen')[arguments[0]]?.terminal.buffer.active;
            let text = '';
            for (let row = 0; row < (buffer?.length ?? 0); row++) {
                const wrapped = buffer.getLine(row + 1)?.isWrapped;
                text += buffer.getLine(row).translateToString(!wrapped) + (wrapped ? '' : '\\n');
            }
            return text"""
        lines: list[str] = self.driver.execute_script(script, number).rstrip("\n ").split("\n")
        return lines

    def printed(self) -> str:
        """What the first terminal printed behind its banner."""
        return "".join(f"{line}\n" for line in self.lines()[1:])

    def press(self, element: Any) -> None:
        """Click on what may be out of sight."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)

    def type(self, text: str, number: int = 0) -> None:
        self.driver.find_elements("css selector", ".try-screen textarea")[number].send_keys(text)

    def says(self, pattern: str, number: int = 0) -> None:
        """Wait until the lines, put together, match."""
        try:
            self.until(lambda: re.search(pattern, "".join(self.lines(number))))
        except Exception as error:
            raise AssertionError(f"{pattern} is not in {self.lines(number)}") from error


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


def test_what_the_tutorial_shows_is_printed_there_too(browser: Start, serve: Serve) -> None:
    """Each command that runs there, on the machine of its own that it makes: the same bytes."""
    page = browser()
    page.driver.get(serve(page="tutorial.html"))
    blocks = BLOCK.findall((DOCS / "tutorial.md").read_text())
    shown = {"hmp": ""} | {typed: printed for block in blocks for typed, printed in commands(block)}
    buttons = page.driver.find_elements("css selector", "[data-run]")
    assert len(buttons) >= 13
    for button in buttons:
        run = json.loads(str(button.get_attribute("data-run")))
        page.press(button)
        page.until(lambda: page.state == "ready", page.line)
        assert page.line == f"a new machine: {run['machine']}"
        page.until(lambda run=run: page.printed().count("(qemu)") > len(run["lines"]), run["command"])
        typed = page.printed().removesuffix("(qemu)\n")
        printed = shown[run["command"]].partition("exit ")[0].partition("hmp: -c:1: ")[0]
        if "--echo" not in run["command"]:
            typed = re.sub(r"^\(qemu\) .*\n", "", typed, flags=re.MULTILINE)
        assert TOLD.sub("", typed) == printed


def test_every_command_block_of_the_pages_can_be_run_or_says_why_not(site: Path) -> None:
    for page in ["tutorial", "ci", "silent-guest", "history", "fake-qemu", "record", "attach", "real-guest"]:
        text, source = (site / f"{page}.html").read_text(), (DOCS / f"{page}.md").read_text()
        ours = [block for block in BLOCK.findall(source) if re.search(r"\bhmp ", block)]
        ours += re.findall(r"(?:^    hmp\b.*\n)+", FENCE.sub("", source), re.MULTILINE)
        assert text.count('<p class="try-run" hidden>') >= len(ours), page
    text = html.unescape((site / "ci.html").read_text())
    assert text.count("typo.hmp") > text.count(">run here</button>") == 3, "the same lines on the same machine: once"
    text = html.unescape((site / "fake-qemu.html").read_text())
    assert "hmp --qmp stdio 2>/dev/null" in re.sub(r"<[^>]+>", "", text)
    assert "not together with" not in text
    text = html.unescape((site / "record.html").read_text())
    assert "not in a web page: files (--record; the session's cast can be downloaded)" in text
    text = html.unescape((site / "tutorial.html").read_text())
    assert 'not in a web page: sockets (--monitor, --qmp); "Open another terminal" is a second monitor' in text
    assert '<button type="button" title="hmp" data-run=' in text


def test_with_less_memory_than_the_command_asks_for_there_are_64_mib(browser: Start, serve: Serve) -> None:
    page = browser(WIDE, "--js-flags=--wasm-max-mem-pages=8192")  # 512 MiB
    page.driver.get(serve(page="tutorial.html"))
    page.press(page.find("[data-run*='info status']"))
    page.says(r"balloon: actual=64,.*\(qemu\)$")
    assert page.printed().startswith("(qemu) info status\nVM status: running\n(qemu) info balloon\n")
    assert re.match(r"cannot map 1073741824 bytes of guest memory: .*, the numbers are others than", page.line)


def test_on_other_pages_nothing_is_loaded_before_a_click_and_the_panel_closes(browser: Start, serve: Serve) -> None:
    page = browser(PHONE)
    page.driver.get(serve(page="silent-guest.html"))
    button = page.find("[data-run]")
    assert re.fullmatch(r"run command 1 here \(1\d\.\d MB\)", button.text)
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if name.endswith("loader.js")]
    assert not [name for name in loaded if re.search(r"xterm\.mjs|terminal\.js|pyodide|\.whl", name)]
    page.press(button)
    page.until(lambda: page.find(".try-bar").is_displayed())
    page.says(r"balloon: actual=1024,age=5000\(qemu\) simguest +silent.*\(qemu\)$")
    width = "return Math.max(document.documentElement.scrollWidth, document.querySelector('.try-side').scrollWidth)"
    assert page.driver.execute_script(width) <= PHONE[0]
    assert page.line == "a new machine: hmp -m 1024M --guest silent --clock warp"
    page.find(".try-side > button").click()
    assert not page.find("#hmp-try").is_displayed()
    assert page.find("article").is_displayed()


def test_controls_type_what_they_stand_for(browser: Start, serve: Serve) -> None:
    page = browser((1200, 2000))
    page.load(serve())
    page.find("summary").click()
    picker = page.find("form:has([data-part^='sim guest'])")

    def show(css: str) -> Any:
        return picker.find_element("css selector", css)

    assert not show("[data-part^=',service']").is_displayed()
    offered = [each.text for each in show("select").find_elements("css selector", "option")]
    assert offered == [name for name, profile in PROFILES.items() if not profile.host]
    show("select").send_keys("windows")
    show("[data-part^=',service']").send_keys("never")
    show("[data-part^=',delay']").send_keys("1.5")
    assert show("output").text == "sim guest windows,delay=1.5,service=never"
    show("button").click()
    page.says(r"\(qemu\) sim guest windows,delay=1\.5,service=never.*\(qemu\)$")

    def click(line: str, value: str = "") -> None:
        form = page.find(f"form:has([data-part^='{line}'])")
        if value:
            form.find_element("css selector", "[data-part$='%']").send_keys(value)
        form.find_element("css selector", "button").click()

    click("sim drop")
    page.says(r"\(qemu\) sim drop\(qemu\)$")
    click("sim drop", "3")
    page.says(r"\(qemu\) sim drop 3\(qemu\)$")
    click("sim driver", "unload")
    page.says(r"\(qemu\) sim driver unload.*\(qemu\)$")
    click("sim hang")
    page.says(r"\(qemu\) sim hang\(qemu\)$")
    click("sim delay", "lots")
    page.says(r"\(qemu\) sim delay lots.*\(qemu\)$")


def test_a_session_and_a_snapshot_are_downloaded_and_come_back(browser: Start, serve: Serve, tmp_path: Path) -> None:
    page = browser((1200, 2000))
    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.load(serve())
    page.type("sim hang" + ENTER + "savevm good" + ENTER)
    page.driver.find_elements("css selector", "summary")[1].click()
    page.until(lambda: page.find(".try-snapshot").is_enabled())
    page.find(".try-snapshot").click()
    page.find(".try-cast").click()
    snapshot, cast = tmp_path / "good.hmpsnap", tmp_path / "hmp.cast"
    page.until(lambda: snapshot.exists() and cast.exists(), "downloads")
    load = f"hmp -m 64 --snapshot-dir {tmp_path} -c 'loadvm good' -c sim | grep hung"
    assert shell(f"{load}; hmp-cast2svg {cast} {tmp_path}/a.svg", merged=True).out == "            hung: yes\n"
    assert "savevm" in (tmp_path / "a.svg").read_text()
    page.find(".try-load").click()
    page.until(lambda: not page.find(".try-snapshot").is_enabled(), "another machine has no snapshots")
    page.find(".try-upload").send_keys(str(snapshot))
    page.until(lambda: page.line == "snapshot good is here; loadvm good loads it")
    page.type("loadvm good" + ENTER + "sim" + ENTER)
    page.says(r"hung: yes")
    snapshot.write_bytes(b"\x7fELF" * 1000)
    page.find(".try-upload").send_keys(str(snapshot))
    page.until(lambda: page.line == "the file is not a snapshot of hmp")
    big = tmp_path / "big.hmpsnap"
    with big.open("wb") as file:
        file.truncate(300 << 20)
    page.find(".try-upload").send_keys(str(big))
    page.until(lambda: page.line == "big.hmpsnap is too large for a snapshot: 314.6 MB")


def test_behind_quit_another_machine_is_started(browser: Start, serve: Serve) -> None:
    page = browser()
    page.load(serve())
    page.type("quit" + ENTER)
    page.until(lambda: page.line == 'the machine ended (host-qmp-quit). "Start a new machine" begins anew.')
    page.find(".try-load").click()
    page.until(lambda: page.state == "ready")
    page.type("info status" + ENTER)
    page.says(r"VM status: running\(qemu\)$")


def test_with_a_screen_reader_and_in_the_dark(browser: Start, serve: Serve) -> None:
    page = browser()

    def scheme(value: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": value}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def light(name: str) -> int:
        colour = page.driver.execute_script(
            "return document.querySelector('.try-screen').terminal.options.theme[arguments[0]]", name
        )
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    scheme("dark")
    page.load(serve())
    page.find(".try-reader").click()
    page.type("info status" + ENTER)
    page.until(lambda: "VM status: running" in page.find(".xterm-accessibility").get_attribute("textContent"))
    assert light("background") < 150 < 500 < light("foreground")
    scheme("light")
    page.until(lambda: light("background") > 500 > 150 > light("foreground"), "light")


@pytest.mark.parametrize("name", ["try.html", "tutorial.html", "index.html", "search.html", "reference/guests.html"])
def test_the_policy_lets_each_page_work_and_nothing_else(browser: Start, serve: Serve, name: str) -> None:
    page = browser()
    page.driver.get(serve(page=name))
    policy = page.find("meta[http-equiv='Content-Security-Policy']").get_attribute("content")
    assert policy.startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval' ")
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]
    assert "http" not in policy
    said = [each["message"] for each in page.driver.get_log("browser")]
    assert [each for each in said if "favicon.ico" not in each] == []
    script = (
        "const done = arguments[0]; fetch('http://127.0.0.1:1/').then(() => done('loaded'), () => done('refused'));"
    )
    assert page.driver.execute_async_script(script) == "refused"
    assert "Content Security Policy" in str(page.driver.get_log("browser"))


def test_a_site_without_npm_s_packages_says_why_there_is_no_terminal(tmp_path: Path, browser: Start) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", str(tmp_path / "trees"), str(DOCS)]
    without = os.environ | {"HMP_NPM": str(tmp_path)}
    subprocess.run([*command, str(tmp_path / "html")], check=True, timeout=200, env=without)
    page = browser()
    page.driver.get((tmp_path / "html/try.html").as_uri())
    assert "this site was built without npm" in page.find("article .warning").text
    page.driver.get((tmp_path / "html/tutorial.html").as_uri())
    assert not page.find("[data-run]").is_displayed()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"missing": r"\.whl$"}, r"hmp_emulator-.*\.whl could not be loaded \(404\)"),
        ({"missing": r"made\.json$"}, r"made\.json could not be loaded"),
        ({"missing": r"worker\.js$"}, r"the worker did not start"),
        ({"Content_Security_Policy": "worker-src 'none'"}, r"worker"),
        ({"missing": r"xterm\.mjs$"}, r"The terminal's script could not be loaded"),
        ({"damaged": r"\.whl$"}, r"."),
        ({"damaged": r"\.wasm$"}, r"."),
        ({"damaged": r"python_stdlib\.zip$"}, r"."),
    ],
    ids=["no wheel", "no list", "no worker", "worker blocked", "no xterm", "bad wheel", "bad wasm", "bad Python"],
)
def test_what_cannot_be_loaded_is_said_in_one_line(
    browser: Start, serve: Serve, wrong: dict[str, str], words: str
) -> None:
    page = browser()
    page.open(serve(**wrong))
    page.find(".try-load").click()
    page.until(lambda: page.state == "failed")
    assert re.search(words + r".*Reload the page to start afresh\.$", page.line)
    assert "\n" not in page.line
    page.load(serve())


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


LOOK = """
const wide = (each) => each.scrollWidth > each.clientWidth + 1;
const of = (selector) => [...document.querySelectorAll('article ' + selector)];
return {
    page: wide(document.documentElement),
    tables: of('.table-wrapper').filter(wide).map((each) => each.innerText.slice(0, 80)),
    programs: of('pre').filter(wide).length,
    uncopied: of('pre').filter((each) => !each.parentElement.querySelector('.copybtn')).length,
    pictures: of('img').filter((each) => !each.naturalWidth && each.checkVisibility()).length,
    headings: of(':is(h1, h2, h3, h4)').map((each) => Number(each.tagName[1])),
}"""


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desktop", "phone"])
def test_no_page_is_cut_and_each_block_has_a_button_to_copy_it(
    browser: Start, serve: Serve, site: Path, size: tuple[int, int]
) -> None:
    page = browser(size)
    wrong = {}
    for each in site.rglob("*.html"):
        page.driver.get(serve(page=str(each.relative_to(site))))
        page.until(lambda: page.driver.execute_script("return document.readyState") == "complete")
        found = page.driver.execute_script(LOOK)
        levels = found.pop("headings")
        found["jumps"] = [level for before, level in zip([0, *levels], levels, strict=False) if level > before + 1]
        if size == PHONE:  # code keeps its indentation there, and scrolls
            del found["programs"]
        wrong |= {(each.name, what): value for what, value in found.items() if value}
    assert wrong == {}


def test_the_search_finds_the_age(browser: Start, serve: Serve) -> None:
    page = browser()
    page.driver.get(serve(page="index.html"))
    page.find(".sidebar-search").send_keys("age", ENTER)
    page.until(lambda: page.driver.find_elements("css selector", "#search-results li a"))
    found = [each.text for each in page.driver.find_elements("css selector", "#search-results li a")]
    assert found[:2] == ["What the numbers mean", "What the numbers mean > age"]
    page.driver.find_elements("css selector", "#search-results li a")[1].click()
    page.until(lambda: re.search(r"/numbers\.html.*#age$", page.driver.current_url), page.driver.current_url)
    assert page.find(":target h2").text.startswith("age")
