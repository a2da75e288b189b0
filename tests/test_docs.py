"""The pages hold together: links and anchors resolve, the man page is what the tables say, the site builds and stands
alone. What the pages show as typed and printed is tests/test_readme.py's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.shell import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)])
LINK = re.compile(r"(?<!\\)!?\[[^]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code, and without code in its lines."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """What can stand behind `#` in a link to a page: its headings, as code hosts spell them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+://", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_not_long_but_where_a_table_or_a_program_makes_them(page: Path) -> None:
    for line in FENCE.sub("", page.read_text()).splitlines():
        assert len(line) <= 130 or line.startswith(("|", "    ", "![")), line


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_programs_that_pages_show_are_not_cut_on_a_desktop(page: Path) -> None:
    """The site's column has 90 characters. It wraps transcripts and plain text, but no program."""
    for language, program in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        if language not in ("console", "text"):
            for line in program.expandtabs().splitlines():
                assert len(line) <= 90, line


def test_the_readme_opens_with_the_story_of_the_hang() -> None:
    """In pictures, and as text for where pictures of the repository are not shown."""
    told = r"# hmp\n\n!\[[^]]+\]\(docs/demos/hang\.svg\)\n\n```console\n(.*?)```\n"
    transcript = re.match(told, (ROOT / "README.md").read_text(), re.DOTALL)
    assert transcript is not None
    assert ",age=5000\n" in transcript[1]


def test_the_man_page_says_what_the_tables_say(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DOCS / "_ext/hmp_man.py", tmp_path / "hmp.1"], check=True, timeout=60)
    assert (DOCS / "hmp.1").read_text() == (tmp_path / "hmp.1").read_text(), "make man"


def test_the_man_page_renders_without_a_warning() -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    command = ["groff", "-man", "-Tutf8", "-ww", str(DOCS / "hmp.1")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    plain = re.sub(".\b", "", ended.stdout)
    assert plain.startswith("HMP(1)")
    assert "--fail-stale" in plain


class Html(HTMLParser):
    """What a page of the site links to, what it loads, and where it can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site, built as `make docs` does."""
    pytest.importorskip("sphinx", reason="needs the extra docs")
    out = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    places = ["-b", "html", "-d", str(out / "doctrees"), str(DOCS), str(out / "html")]
    command = [sys.executable, "-m", "sphinx", *options, *places]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    yield out / "html"
    shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestSite:
    def test_it_loads_nothing_from_the_network(self, site: Path) -> None:
        for page in site.rglob("*.html"):
            for source in Html(page).loads:
                assert source.startswith("data:") or (page.parent / source.partition("?")[0]).is_file(), source
        for style in site.rglob("*.css"):
            for source in re.findall(r"@import[^;]+|url\(([^)]+)\)", style.read_text()):
                assert source.strip("\"'").startswith(("data:", "#")), (style.name, source)

    def test_all_its_links_and_anchors_resolve(self, site: Path) -> None:
        pages = {page: Html(page) for page in site.rglob("*.html")}
        for page, html in pages.items():
            for link in html.links:
                path, _, anchor = link.partition("#")
                if re.match(r"[a-z]+:", link):
                    continue
                target = (page.parent / path).resolve() if path else page
                assert target.is_file(), (page.name, link)
                if anchor and target in pages:
                    assert anchor in pages[target].ids, (page.name, link)

    def test_search_finds_what_the_age_is_and_code_has_a_button_to_copy_it(self, site: Path) -> None:
        index = json.loads((site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
        pages = {index["docnames"][number] for number, _ in index["alltitles"]["age"]}
        assert pages == {"numbers"}
        assert all("copybutton.js" in (site / page).read_text() for page in ("tutorial.html", "silent-guest.html"))

    def test_the_reference_has_every_guest_command_option_and_rule(self, site: Path) -> None:
        from device.balloon.spec import STATS_TABLE
        from device.errors import RULES
        from device.guest.table import PROFILES
        from hmp.monitor.registry import COMMANDS
        from hmp.options import command
        from hmp.qmp.commands import COMMANDS as QMP
        from hmp.recording import cast2svg

        def text(name: str) -> str:
            return re.sub(r"<[^>]+>", "", (site / f"reference/{name}.html").read_text())

        topics = [f"{each.name} {name}" for each in COMMANDS for name in each.topics or ()]
        for page, names in {
            "guests": [*PROFILES],
            "commands": [name for each in COMMANDS for name in each.name.split("|")] + topics,
            "options": [name for option in command().params for name in option.opts if name.startswith("-")],
            "cast2svg": [name for option in cast2svg.command().params for name in option.opts if name.startswith("-")],
            "device": [*RULES, *(stat.name for stat in STATS_TABLE)],
            "qmp": [*QMP],
        }.items():
            found = text(page)
            assert [name for name in names if name not in found] == [], page
