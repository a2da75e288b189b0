"""The pictures of a terminal beside the tutorial, for the first page of the site: python -m tests.support.picture

The site has to be built (`make docs`, with npm's packages); chromium and chromium-driver draw it, light and dark.
"""

from __future__ import annotations

import shutil
import sys
import threading
from base64 import b64decode
from functools import partial
from http.server import ThreadingHTTPServer

from selenium import webdriver

from tests.support.shell import ROOT
from tests.test_try import Browser, Site

WIDTH, HEIGHT = 1200, 600
SECTION = "a-guest-that-hangs"


def picture(browser: Browser, address: str, scheme: str) -> bytes:
    """Return the picture: the section's commands have run in the terminal beside it."""
    chosen = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", chosen)
    browser.driver.get(f"{address}/tutorial.html")
    browser.press(browser.find(f"#{SECTION} [data-run]"))
    browser.until(lambda: browser.printed().count("age=") == 2 and browser.lines()[-1] == "(qemu)", browser.line)
    # From above: on the way up Furo shows a button over the text.
    scroll = "for (const to of [document.body, arguments[0]]) to.scrollIntoView({behavior: 'instant'})"
    browser.driver.execute_script(scroll, browser.find(f"#{SECTION}"))
    shot = {"format": "webp", "quality": 85}
    return b64decode(browser.driver.execute_cdp_cmd("Page.captureScreenshot", shot)["data"])


def main() -> int:
    """Draw both."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Site, directory=str(ROOT / "docs/_build/html")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(each)
    # with a path given, selenium does not search for a driver, which would ask the network.
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for scheme in ("light", "dark"):
            drawn = picture(Browser(driver), f"http://127.0.0.1:{server.server_port}", scheme)
            (ROOT / f"docs/drawings/try-{scheme}.webp").write_bytes(drawn)
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
