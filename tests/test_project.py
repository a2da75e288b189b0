"""The project as a package: what it says of itself, what it ships, and that the README's ways to install it work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from hmp import __version__
from tests.support.shell import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def test_the_same_authors_are_named_everywhere() -> None:
    (author,) = PROJECT["authors"]
    assert author == {"name": re.search(r"Copyright \(c\) \d+ (.+)", (ROOT / "LICENSE").read_text())[1]}  # type: ignore[index]
    assert f'author = "{author["name"]}"' in (ROOT / "docs/conf.py").read_text()


def test_the_readme_names_the_wheel_of_this_version() -> None:
    assert f"dist/{PROJECT['name'].replace('-', '_')}-{__version__}-py3-none-any.whl" in README


def test_hooks_run_targets_of_make() -> None:
    hooks = re.findall(r"entry: make (\w+)", (ROOT / ".pre-commit-config.yaml").read_text())
    makefile = (ROOT / "Makefile").read_text()
    assert hooks == ["lint", "check"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in hooks)
    assert re.search(r"^check: lint ", makefile, re.MULTILINE)


def build(kind: str, folder: Path) -> Path:
    """Build the `wheel` or the `sdist` of this tree."""
    pytest.importorskip("hatchling", reason="needs the extra docs")
    code = f"from hatchling.build import build_{kind} as build; print(build({str(folder)!r}))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return folder / ended.stdout.split()[-1]


def test_the_sdist_has_every_file_of_the_repository(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a clone of the repository, and git")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout.split(
        "\0"
    )
    with tarfile.open(build("sdist", tmp_path)) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in listed if name and (ROOT / name).exists()} - packed == set()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel: what the README's lines find, as long as no package index has it."""
    return build("wheel", tmp_path_factory.mktemp("wheels")).parent


@pytest.mark.external
@pytest.mark.slow
@pytest.mark.parametrize("installer", ["pipx", "uv"])
def test_the_line_of_the_readme_installs_it_into_an_empty_home(installer: str, wheels: Path, tmp_path: Path) -> None:
    found = shutil.which(installer, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"needs {installer}")
    (line,) = re.findall(rf"^    ({installer} .*?)  +#", README, re.MULTILINE)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / installer).symlink_to(found)
    # How this machine reaches its package index is kept, and nothing else of the environment.
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
    finds = {name: f"{kept.get(name, '')} {wheels}".strip() for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS")}
    # An index behind a certificate of this machine's own is reached with the system's certificates only.
    home = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
    home |= {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

    def run(command: str) -> str:
        ended = subprocess.run(
            ["bash", "-c", command], env=kept | finds | home, cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        if "Failed to fetch" in ended.stderr:
            pytest.skip(f"{installer} reaches no package index: {ended.stderr.splitlines()[0]}")
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run(line)
    assert run("~/.local/bin/hmp -c 'info status'") == "VM status: running\n"
    assert run("~/.local/bin/hmp-cast2svg --version") == f"hmp-cast2svg {__version__}\n"
    assert f"hmp-emulator {__version__}" in run("~/.local/bin/hmp-qemu -version")
