"""Casts as pictures, and the pictures of the demos."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from hmp.recording import cast2svg
from hmp.recording.svg_cast import CastError, paced, read_cast
from hmp.recording.svg_draw import _COLORS, _PALETTE, BASE, CELL, LINE
from hmp.recording.svg_screen import Style, play
from tests.support.casts import DEMOS, environment, read, run, screen
from tests.support.demos import SCRIPTS, difference, make, others
from tests.support.timing import PATIENCE

CASTS = sorted(DEMOS.glob("*.cast"))
SVG = "{http://www.w3.org/2000/svg}"

HEADER = '{"version": 2, "width": 20, "height": 4}\n'


BAD = [0, 0x1B, 0xFFFE, 0xD800]
"""Characters that XML forbids."""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


def write(tmp_path, *events: str, header: str = HEADER):
    path = tmp_path / "x.cast"
    path.write_text(header + "".join(f"{event}\n" for event in events))
    return path


def render(path, **options) -> str:
    return cast2svg.render(read_cast(str(path)), **options)


class Viewer:
    """Evaluates a picture as a browser does: what its animations show at a time, or the picture without animations."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        style = self.root.findtext(f"{SVG}style") or ""
        period = re.search(r"animation:([\d.]+)s step-end", style)
        self.period = float(period[1]) if period else 0
        self.steps = {}
        for name, rule in re.findall(r"@keyframes (\w+)\{((?:[\d.]+%\{[^}]*\})+)\}", style):
            found = re.findall(r"([\d.]+)%\{transform:translate\((-?\d+)(?:px)?,(-?\d+)(?:px)?\)\}", rule)
            self.steps[name] = [(float(at), int(x), int(y)) for at, x, y in found]

    def offset(self, group, at: float | None) -> int:
        name = re.search(r"animation-name:(\w+)", group.get("style", ""))
        if name and at is not None:
            return [y for percent, _, y in self.steps[name[1]] if percent <= at * 100 / self.period + 0.004][-1]
        moved = re.search(r"translate\(-?\d+ (-?\d+)\)", group.get("transform", ""))
        return int(moved[1]) if moved else 0

    def lines(self, at: float | None = None) -> list[str]:
        """Return the text lines that show, as `screen` does."""
        _, window = self.root.findall(f"{SVG}svg")
        rows = int(window.get("height")) // LINE
        top = 0
        content = window
        if (group := window.find(f"{SVG}g")) is not None and group.find(f"{SVG}svg") is not None:
            content, top = group, -self.offset(group, at) // LINE
        shown = [""] * rows
        for slit in content.findall(f"{SVG}svg"):
            number = int(slit.get("y")) // LINE - top
            strip = slit.find(f"{SVG}g")
            moved = 0 if strip is None else self.offset(strip, at)
            if 0 <= number < rows:
                for text in (slit if strip is None else strip).iter(f"{SVG}text"):
                    if int(text.get("y")) + moved == BASE:
                        x = int(text.get("x")) // CELL
                        shown[number] = shown[number].ljust(x) + text.text
        return "\n".join(shown).rstrip().split("\n")


def bars(lines: list[str]) -> list[str]:
    """Leave out the characters that are drawn as shapes."""
    return [re.sub("[▁▂▃▄▅▆▇█]", " ", line).rstrip() for line in lines]


def named(path) -> str:
    return path.stem


class TestDemoScripts:
    def test_each_has_its_cast_and_its_picture(self):
        scripts = [path.stem for kind in ("hmp", "typed") for path in DEMOS.glob(f"*.{kind}")]
        assert sorted(scripts) == [path.stem for path in CASTS] == sorted(path.stem for path in DEMOS.glob("*.svg"))

    @pytest.mark.parametrize("script", SCRIPTS, ids=named)
    def test_committed_casts_are_what_they_make_run_after_run(self, script, tmp_path):
        committed, libraries = script.with_suffix(".cast"), others()
        made = [tmp_path / f"{number}.cast" for number in (1, 2)]
        for cast in made:
            make(script, cast)
        assert made[0].read_text() == made[1].read_text()
        if made[0].read_text() != committed.read_text():
            differs = difference(made[0], committed)
            assert libraries, f"run `make demos`: {differs}"
            pytest.skip(f"{'; '.join(libraries)}: {differs}")
        assert read(committed)[1][-1][0] < 60

    def test_a_difference_is_shown(self, tmp_path):
        made = tmp_path / "hang.cast"
        text = (DEMOS / "hang.cast").read_text()
        made.write_text(text.replace("208551", "208552", 1))
        told = difference(made, DEMOS / "hang.cast")
        assert re.fullmatch(r"hang: row 4 at \S+ s is '.*=208552,.*', and was '.*=208551,.*'", told)
        made.write_text(text.replace("38;5;210", "38;5;211"))
        assert re.fullmatch(r"hang: other colours at \S+ s", difference(made, DEMOS / "hang.cast"))
        made.write_text(text.replace('"m", "TAB', '"x", "TAB'))
        assert difference(made, DEMOS / "hang.cast") == ""

    @pytest.mark.parametrize("script", [*DEMOS.glob("*.typed")], ids=named)
    def test_what_is_typed_in_real_time_is_what_the_script_says(self, script):
        # Real time differs in each run, so only the text is compared. Run `make demo-kernel` or `make demo-vm` if it fails.
        lines = script.read_text().splitlines()
        committed = script.with_suffix(".cast")
        shown = [line.removeprefix("(qemu)").strip() for line in screen(committed) if line.startswith("(qemu)")]
        assert [line for line in shown if line] == [line for line in lines if not line.startswith("#")]
        chapters = [text for _, kind, text in read(committed)[1] if kind == "m"]
        assert chapters == [line.removeprefix("#! chapter ") for line in lines if line.startswith("#! chapter ")]

    @pytest.mark.external
    @pytest.mark.slow
    @pytest.mark.timeout(180)
    def test_the_real_kernel_can_be_typed_at_again(self, tmp_path):
        if shutil.which("linux.uml") is None or shutil.which("busybox") is None:
            pytest.skip("needs user-mode-linux and busybox-static")
        cast = tmp_path / "kernel.cast"
        options = ["--guest", "uml,mem=128M", "--size", "56x24", "--record", cast]
        command = [sys.executable, "-m", "hmp", *options, DEMOS / "kernel.typed"]
        subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True, timeout=170)
        shown = screen(cast)
        assert [line for line in shown if line.startswith("(qemu) ")] == [
            line for line in screen(DEMOS / "kernel.cast") if line.startswith("(qemu) ")
        ]
        assert any(re.search(r"age=\d+$", line) for line in shown)

    @pytest.mark.slow
    def test_another_python_makes_the_same_bytes(self, tmp_path):
        pythons = other_pythons()
        if not pythons or others():
            pytest.skip("needs another Python, 3.11 or newer, and the libraries that made the demos")
        libraries = ":".join([str(DEMOS.parents[1]), str(Path(click.__file__).parents[1])])
        for python in pythons:
            for script in DEMOS.glob("*.hmp"):
                header, _ = read(script.with_suffix(".cast"))
                size = f"{header['width']}x{header['height']}"
                options = ["--clock", "warp", "--size", size, "--overwrite", "--record", tmp_path / "x.cast"]
                command = [python, "-B", "-m", "hmp", *options, script]
                subprocess.run(
                    command, env=environment(PYTHONPATH=libraries), stdout=subprocess.DEVNULL, check=True, timeout=30
                )
                assert (tmp_path / "x.cast").read_text() == script.with_suffix(".cast").read_text(), python


def other_pythons() -> list[Path]:
    """Every Python from 3.11 on that is installed, but this one's version."""
    found = []
    for minor in (11, 12, 13):
        places = [shutil.which(f"python3.{minor}"), *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python")]
        for place in filter(None, places):
            asked = subprocess.run(
                [place, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True, check=False
            )
            if asked.stdout == f"{minor}\n" and minor != sys.version_info[1]:
                found.append(Path(place))
                break
    return found


@pytest.mark.parametrize("cast", CASTS, ids=named)
class TestDemoPictures:
    def test_committed_pictures_are_what_the_casts_make(self, cast):
        made = render(cast, once=cast.stem == "hang")
        assert made == cast.with_suffix(".svg").read_text(), "run `make demos`"

    def test_the_picture_needs_nothing_and_is_small(self, cast):
        svg = cast.with_suffix(".svg").read_text()
        assert len(svg.encode()) < 60_000
        assert "http" not in svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"<script|@import|@font-face|url\(|<image|href|\son\w+=", svg)
        assert "@media (prefers-color-scheme:dark)" in svg
        assert "@media (prefers-reduced-motion:no-preference){g{animation:" in svg

    def test_the_picture_shows_what_the_cast_does_at_any_time(self, cast):
        viewer = Viewer(cast.with_suffix(".svg").read_text())
        times = [at for at, _, _ in read(cast)[1]]
        for at in (half / 2 for half in range(int(times[-1] * 2))):
            if not any(at - 0.035 < time < at + 0.035 for time in times):  # changes so close together are one
                assert bars(viewer.lines(at)) == bars(screen(cast, at)), at
        assert bars(viewer.lines()) == bars(screen(cast))  # without animations: the last screen

    def test_a_title_and_a_description_are_there_for_screen_readers(self, cast):
        root = ElementTree.fromstring(cast.with_suffix(".svg").read_text())
        assert (root.get("role"), root.get("aria-labelledby")) == ("img", "title desc")
        assert root.findtext(f"{SVG}title") == f"hmp: {cast.stem}"
        assert "Chapters: " in root.findtext(f"{SVG}desc")


class TestHangStory:
    CAST = DEMOS / "hang.cast"

    def still(self, what: str, after: float = 0) -> list[str]:
        at = next(at for at, *_ in read(self.CAST)[1] if what in "".join(screen(self.CAST, at))) + after
        svg = render(self.CAST, at=round(at * 1000))
        assert "animation" not in svg
        return Viewer(svg).lines()

    def test_a_still_shows_the_countdown(self):
        assert self.still("waiting for the guest ... 2.5 s")[-1].startswith("waiting for the guest ... 2.5 s  ━━")

    def test_another_still_shows_the_line_with_its_age(self):
        lines = self.still("age=", 1)
        assert lines[-1].startswith(" running │ linux hung │ ")
        assert lines[-3] == "(qemu)"
        assert lines[-4].endswith(",age=5000")

    def test_completion_hang_and_age_take_eight_seconds(self):
        _, events = read(self.CAST)
        assert next(text for _, kind, text in events if kind == "m") == "TAB completes"
        assert "block-jobs" in "".join(screen(self.CAST, 0.8))
        assert "age=5000" in "".join(screen(self.CAST, 8))


class TestDrawing:
    def test_colours_styles_and_faint_text(self, tmp_path):
        path = write(tmp_path, r'[0, "o", "\u001b[1;31mred\u001b[0m \u001b[2mgray\u001b[22m \u001b[7mx\u001b[0m"]')
        svg = render(path)
        assert '<text class="B r"' in svg
        assert re.search(r'<text class="K"[^>]*>gray<', svg)
        assert re.search(r'<rect class="f" x="81"', svg)
        assert re.search(r'<text class="b"[^>]*>x<', svg)

    def test_true_colours_and_the_256(self, tmp_path):
        svg = render(write(tmp_path, r'[0, "o", "\u001b[38;2;1;2;3;48;5;196mx"]'))
        assert "fill:#010203" in svg
        assert "fill:#ff0000" in svg

    def test_each_of_the_16_can_be_read_on_each(self):
        for shade in (0, 1):
            texts = [_COLORS[name][1 + shade] for name in _COLORS] + [_PALETTE["foreground"][1 + shade]]
            behind = [_COLORS[name][3 + shade] for name in _COLORS]
            assert min(contrast(text, back) for text in texts for back in behind) >= 4.5
            plain = _PALETTE["background"][1 + shade]
            assert min(contrast(text, plain) for text in texts) >= 4.5

    def test_a_background_has_a_shade_of_its_own_which_it_keeps_when_reversed(self, tmp_path):
        svg = render(write(tmp_path, r'[0, "o", "\u001b[37;41mx\u001b[7my"]'))
        assert re.search(r'<rect class="or" x="0"', svg)
        assert re.search(r'<text class="w"[^>]*>x<', svg)
        assert re.search(r'<rect class="w" x="9"', svg)
        assert re.search(r'<text class="or"[^>]*>y<', svg)

    def test_there_are_no_variables_which_some_programs_draw_in_black(self, tmp_path):
        svg = render(write(tmp_path, r'[0, "o", "\u001b[31mx"]'))
        assert "var(" not in svg
        light, dark = svg.split("@media (prefers-color-scheme:dark)")
        assert f".r{{fill:{_COLORS['red'][1]}}}" in light
        assert f".r{{fill:{_COLORS['red'][2]}}}" in dark

    @pytest.mark.parametrize("bad", [r"\u001b", r"\ufffe", r"\ud800", r"\u0000", "<&>"])
    def test_titles_markers_and_text_are_always_xml(self, tmp_path, bad):
        path = tmp_path / "x.cast"
        path.write_text(
            f'{{"version": 2, "width": 20, "height": 3, "title": "a{bad}b"}}\n[0, "m", "c{bad}d"]\n[1, "o", "e{bad}f"]\n'
        )
        done = run("hmp.recording.cast2svg", path, tmp_path / "x.svg")
        assert (done.returncode, done.stderr) == (0, "")
        root = ElementTree.fromstring((tmp_path / "x.svg").read_bytes())
        assert root.findtext(f"{SVG}title") == json.loads(f'"a{bad}b"').translate(dict.fromkeys(BAD, "\ufffd"))

    def test_markup_is_text(self, tmp_path):
        svg = render(write(tmp_path, '[0, "o", "<b>&amp;</b>"]'), title="<i>")
        assert Viewer(svg).lines() == ["<b>&amp;</b>"]

    def test_bars_are_shapes_without_gaps(self, tmp_path):
        svg = render(write(tmp_path, '[0, "o", "|██▄|"]'))
        assert f'<rect class="f" x="9" y="0" width="18" height="{LINE}"/>' in svg
        assert f'<rect class="f" x="27" y="{LINE // 2}" width="9" height="{LINE // 2}"/>' in svg

    def test_a_line_is_runs_of_one_style_where_wide_characters_stand_alone(self, tmp_path):
        text = r"ab c\u001b[9md\u001b[29;37;105me\u001b[m \u6f22x"
        recording = read_cast(str(write(tmp_path, f'[0, "o", "{text}"]')))
        assert [(run.x, run.cells, run.text, run.style) for run in play(recording).lines[0][-1][1]] == [
            (0, 4, "ab c", Style()), (4, 1, "d", Style(strike=True)), (5, 1, "e", Style("white", "on brightmagenta")),
            (7, 2, "\u6f22", Style()), (9, 1, "x", Style())]  # fmt: skip

    def test_wide_characters_take_two_cells(self, tmp_path):
        assert 'textLength="18">漢<' in render(write(tmp_path, '[0, "o", "漢"]'))

    def test_scrolling_moves_the_window(self, tmp_path):
        lines = [f'[{number}, "o", "line {number}\\r\\n"]' for number in range(1, 9)]
        svg = render(write(tmp_path, *lines))
        viewer = Viewer(svg)
        assert viewer.lines(2.5) == ["line 1", "line 2"]
        assert viewer.lines(6.5) == ["line 4", "line 5", "line 6"]
        assert svg.count(">line 3<") == 1

    def test_clearing_and_resizing(self, tmp_path):
        events = ('[1, "o", "gone"]', r'[2, "o", "\u001b[2J\u001b[Hhere"]', '[3, "r", "30x6"]', '[4, "o", "!"]')
        svg = render(write(tmp_path, *events))
        assert Viewer(svg).lines(1.5) == ["gone"]
        assert Viewer(svg).lines() == ["here!"]
        assert f'width="{30 * CELL}" height="{6 * LINE}"' in svg

    def test_a_long_chapter_leaves_room_for_the_title(self, tmp_path):
        svg = render(write(tmp_path, '[0, "m", "a chapter with a name that is too long"]'), title="title")
        assert ">a chapter w…<" in svg

    def test_an_empty_recording_is_an_empty_screen(self, tmp_path):
        assert Viewer(render(write(tmp_path))).lines() == [""]


class TestReading:
    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "line 1: is not the header of an asciicast"),
            ("hello\n", "line 1: is not the header of an asciicast"),
            ("[]\n", "line 1: is not the header of an asciicast"),
            ('{"version": 3}\n', "line 1: is of version 3, and only asciicast 2 can be drawn"),
            ('{"version": 2}\n', "line 1: has no usable width and height"),
            ('{"version": 2, "width": 80, "height": true}\n', "line 1: has no usable width and height"),
            ('{"version": 2, "width": 80, "height": 99999}\n', "line 1: has no usable width and height"),
            (HEADER + '[0, "o", "x"]\n[1, "o", "y', "line 3: is not JSON (is it cut off?)"),
            (HEADER + '[0, "o"]\n[1, "o", "y"]\n', "line 2: is not an event"),
            (HEADER + '["0", "o", ""]\n', "line 2: is not an event"),
            (HEADER + '[NaN, "o", ""]\n', "line 2: its time is not within a day"),
            (HEADER + '[-1, "o", ""]\n', "line 2: its time is not within a day"),
            (HEADER + '[0, "r", "80"]\n', "line 2: is not a size"),
            (HEADER + '[0, "r", "0x5"]\n', "line 2: has no usable width and height"),
            (HEADER + "[" * 100_000 + "\n", "line 2: is not JSON"),
        ],
    )
    def test_a_bad_cast_is_one_clear_error(self, tmp_path, text, complaint):
        path = tmp_path / "x.cast"
        path.write_text(text)
        with pytest.raises(CastError) as info:
            read_cast(str(path))
        assert str(info.value) == complaint

    def test_bytes_that_are_no_text(self, tmp_path):
        path = tmp_path / "x.cast"
        path.write_bytes(HEADER.encode() + b"\xff\n")
        with pytest.raises(CastError, match="not UTF-8 text"):
            read_cast(str(path))

    def test_other_events_are_passed_over(self, tmp_path):
        assert read_cast(str(write(tmp_path, '[0, "i", "secret"]', '[0, "x", "0"]'))).events == []


class TestProgram:
    def draw(self, *args):
        return run("hmp.recording.cast2svg", *args)

    def test_makes_a_picture_or_a_still(self, tmp_path):
        cast = write(tmp_path, '[1, "o", "x"]')
        assert self.draw(cast, tmp_path / "x.svg").returncode == 0
        assert "animation" in (tmp_path / "x.svg").read_text()
        assert self.draw("--at", "2", "--title", "T", cast, tmp_path / "y.svg").returncode == 0
        assert "animation" not in (tmp_path / "y.svg").read_text()

    @pytest.mark.parametrize(
        ("args", "status", "complaint"),
        [
            (["{dir}/x.cast", "{dir}/there.svg"], 2, "{dir}/there.svg: exists; --overwrite replaces it"),
            (["{dir}/none.cast", "{dir}/x.svg"], 1, "{dir}/none.cast: No such file or directory"),
            (["{dir}/x.cast", "{dir}/no/x.svg"], 1, "{dir}/no/x.svg: No such file or directory"),
            (["{dir}/x.cast", "/dev/full", "--overwrite"], 1, "/dev/full: No space left on device"),
            (["{dir}/there.svg", "{dir}/x.svg"], 1, "{dir}/there.svg: line 1: is not the header of an asciicast"),
            (["{dir}/x.cast", "{dir}/x.svg", "--at", "soon"], 2, "--at: 'soon' is not a number of seconds"),
            (["{dir}/x.cast", "{dir}/x.svg", "--at", "inf"], 2, "--at: 'inf' is not a number of seconds"),
            (["{dir}/x.cast"], 2, "Missing argument 'SVG'."),
        ],
    )
    def test_one_line_for_each_mistake(self, tmp_path, args, status, complaint):
        write(tmp_path, '[1, "o", "x"]')
        (tmp_path / "there.svg").write_text("precious")
        done = self.draw(*[arg.replace("{dir}", str(tmp_path)) for arg in args])
        assert done.returncode == status
        assert done.stderr == f"hmp-cast2svg: {complaint.replace('{dir}', str(tmp_path))}\n"
        assert (tmp_path / "there.svg").read_text() == "precious"

    def test_its_options_change_the_times_of_events(self, tmp_path):
        events = ['[0, "o", "a"]', '[2, "o", "b"]', '[2.5, "m", "chapter"]', '[12.5, "o", "c"]', '[20, "o", "d"]']
        path = write(tmp_path, *events)
        recording = read_cast(str(path))

        def times(**options):
            return [event.at for event in paced(recording, **options).events]

        assert times() == [0, 2000, 2500, 12500, 20000]
        assert times(idle=1000) == [0, 1000, 1500, 2500, 3500]
        assert times(idle=1000, speed=2) == [0, 500, 750, 1250, 1750]
        assert times(start=2200, end=13000) == [0, 0, 300, 10300]
        assert times(start=2200, end=13000, idle=500, speed=0.5) == [0, 0, 600, 1600]
        limited = read_cast(str(write(tmp_path, *events, header=HEADER.replace("}", ', "idle_time_limit": 1.5}'))))
        assert [event.at for event in paced(limited).events] == [0, 1500, 2000, 3500, 5000]
        assert [event.at for event in paced(limited, idle=500).events] == [0, 500, 1000, 1500, 2000]

    def test_the_options_of_pace_reach_the_picture(self, tmp_path):
        cast = write(tmp_path, '[0, "o", "a"]', '[2, "o", "b"]', '[12, "o", "c"]', '[20, "o", "d"]')
        options = ("--from", "1", "--to", "13", "--idle", "4", "--speed", "2")
        assert self.draw(*options, cast, tmp_path / "x.svg").returncode == 0
        viewer = Viewer((tmp_path / "x.svg").read_text())
        assert viewer.period == 3.5  # 1 s to b, 4 to c, half of both; and a second to look at the end
        assert [viewer.lines(at) for at in (0, 0.6, 2.6)] == [["a"], ["ab"], ["abc"]]
        assert viewer.lines() == ["abc"]
        assert self.draw("--once", cast, tmp_path / "y.svg").returncode == 0
        assert "animation:21s step-end}" in (tmp_path / "y.svg").read_text()

    def test_stdin_and_stdout(self, tmp_path):
        cast = write(tmp_path, '[1, "o", "x"]')
        done = run("hmp.recording.cast2svg", "-", "-", stdin=cast.read_text())
        assert (done.returncode, done.stderr, Viewer(done.stdout).lines()) == (0, "", ["x"])
        assert "A terminal recording of 1 second." in done.stdout
        done = run("hmp.recording.cast2svg", "-", "-", stdin="no cast")
        assert (done.returncode, done.stderr) == (1, "hmp-cast2svg: stdin: line 1: is not the header of an asciicast\n")

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            (["--speed", "0"], "--speed: '0' is not a number from 0.01 to 100"),
            (["--speed", "fast"], "--speed: 'fast' is not a number from 0.01 to 100"),
            (["--from", "2", "--to", "1"], "--from: is after --to"),
            (
                ["--at", "1", "--once"],
                "--at: a still picture has no speed: not together with --from, --to, --idle, --speed or --once",
            ),
            (
                ["--at", "1", "--from", "0"],
                "--at: a still picture has no speed: not together with --from, --to, --idle, --speed or --once",
            ),
        ],
    )
    def test_a_senseless_pace_is_refused(self, tmp_path, options, complaint):
        done = self.draw(*options, write(tmp_path, '[1, "o", "x"]'), tmp_path / "x.svg")
        assert (done.returncode, done.stderr) == (2, f"hmp-cast2svg: {complaint}\n")
        assert not (tmp_path / "x.svg").exists()

    def test_sequences_that_are_not_drawn_are_named_in_one_line(self, tmp_path):
        cast = write(tmp_path, *[rf'[0, "o", "\u001b[1\u002{n}ax\u001b[5m"]' for n in range(1, 8)])
        done = self.draw(cast, tmp_path / "x.svg")
        named = 'ESC[!a, blinking text, ESC["a, ESC[#a, ESC[$a and 3 more'
        assert (done.returncode, done.stderr) == (
            0,
            f"hmp-cast2svg: {cast}: not drawn: {named}; everything else is drawn\n",
        )

    @pytest.mark.parametrize("way", ["same", "./", "symlink", "hard link"])
    @pytest.mark.parametrize("given", ["cast", "svg"])
    def test_the_recording_is_never_replaced_by_its_picture(self, tmp_path, way, given):
        cast = write(tmp_path, '[1, "o", "x"]')
        before = cast.read_bytes()
        other = {"same": str(cast), "./": f"{tmp_path}/./x.cast"}.get(way, f"{tmp_path}/other")
        if way == "symlink":
            Path(other).symlink_to(cast)
        elif way == "hard link":
            os.link(cast, other)
        pair = [other, str(cast)] if given == "cast" else [str(cast), other]
        done = self.draw("--overwrite", *pair)
        assert (done.returncode, done.stderr) == (
            2,
            f"hmp-cast2svg: {pair[1]}: is the recording itself; give the picture another name\n",
        )
        assert cast.read_bytes() == before

    def test_a_link_to_a_picture_stays_one_and_keeps_its_mode(self, tmp_path):
        cast = write(tmp_path, '[1, "o", "x"]')
        picture, link = tmp_path / "x.svg", tmp_path / "link.svg"
        picture.write_text("old")
        picture.chmod(0o640)
        link.symlink_to("x.svg")
        assert self.draw("--overwrite", cast, link).returncode == 0
        assert link.is_symlink()
        assert "<svg" in picture.read_text()
        assert picture.stat().st_mode & 0o777 == 0o640
        assert sorted(each.name for each in tmp_path.iterdir()) == ["link.svg", "x.cast", "x.svg"]

    @pytest.mark.parametrize("options", [(), ("--overwrite",)])
    def test_a_picture_that_cannot_be_written_leaves_what_was_there(self, tmp_path, options):
        cast, picture = write(tmp_path, '[1, "o", "x"]'), tmp_path / "x.svg"
        if options:
            picture.write_text("old")
        code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99))\n"
        code += "from hmp.recording.cast2svg import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *options, cast, picture]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (1, f"hmp-cast2svg: {picture}: File too large\n")
        assert sorted(each.name for each in tmp_path.iterdir()) == ["x.cast", "x.svg"][: 2 if options else 1]
        assert not options or picture.read_text() == "old"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
    def test_a_picture_that_is_protected_stays(self, tmp_path):
        cast, picture = write(tmp_path, '[1, "o", "x"]'), tmp_path / "x.svg"
        picture.write_text("old")
        picture.chmod(0o444)
        done = self.draw("--overwrite", cast, picture)
        assert (done.returncode, done.stderr) == (1, f"hmp-cast2svg: {picture}: Permission denied\n")
        assert picture.read_text() == "old"

    def test_pipes_and_stdout_are_written_where_they_stand(self, tmp_path):
        cast = write(tmp_path, '[1, "o", "x"]')
        out = tmp_path / "out"
        command = f"{sys.executable} -m hmp.recording.cast2svg --overwrite"
        subprocess.run(["sh", "-c", f"(echo first; {command} {cast} /dev/stdout) > {out}"], check=True)
        assert out.read_text().startswith("first\n<svg")
        piped = subprocess.run(["sh", "-c", f"{command} {cast} /dev/stdout | cat"], check=True, capture_output=True)
        os.mkfifo(tmp_path / "fifo")
        with subprocess.Popen(["cat", tmp_path / "fifo"], stdout=subprocess.PIPE) as reader:
            assert self.draw("--overwrite", cast, tmp_path / "fifo").returncode == 0
            assert reader.communicate(timeout=PATIENCE)[0] == piped.stdout == out.read_bytes()[len("first\n") :]
