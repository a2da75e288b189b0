"""A real libvirt in session mode."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.live import Unavailable
from tests.support.shell import environment
from tests.support.timing import PATIENCE, until

LIBVIRTD = "/usr/sbin/libvirtd"
NOBODY = "65534"
AS_USER = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups env" if os.geteuid() == 0 else ""


def python() -> str:
    """Return a Python that a domain of this libvirt can run hmp with: root's own may be out of reach of nobody."""
    for each in (sys.executable, "/usr/bin/python3"):
        asked = [*AS_USER.split(), each, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(asked, capture_output=True).returncode == 0:
            return each
    raise Unavailable("needs Python 3.11 or newer where nobody can run it")


class Libvirt:
    """A libvirtd of its own, and a virsh that talks to it. As root it runs as nobody: session mode is for users."""

    def __init__(self, folder: Path, domain: str, *files: Path) -> None:
        for program, package in ((LIBVIRTD, "libvirt-daemon"), ("virsh", "libvirt-clients"), ("setpriv", "util-linux")):
            if shutil.which(program) is None:
                raise Unavailable(f"needs {program} (Debian: {package})")
        for each in files:
            shutil.copy(each, folder)
        (folder / "domain.xml").write_text(domain)
        (folder / "bin").mkdir()
        as_user = f"{AS_USER or 'env'} HOME={folder} XDG_RUNTIME_DIR={folder} LIBVIRT_DEFAULT_URI=qemu:///session "
        if AS_USER:
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
        virsh = folder / "bin/virsh"
        virsh.write_text(f'#!/bin/sh\ncd {folder}\nexec {as_user} {shutil.which("virsh")} "$@"\n')
        virsh.chmod(0o755)
        self.folder = folder
        self.path = f"{folder}/bin{os.pathsep}{environment()['PATH']}"
        log = (folder / "libvirtd.log").open("wb")
        self.daemon = subprocess.Popen([*shlex.split(as_user), LIBVIRTD], cwd=folder, stdout=log, stderr=log)
        log.close()

    def virsh(self, *words: str) -> str:
        ended = subprocess.run([self.folder / "bin/virsh", *words], capture_output=True, text=True, timeout=PATIENCE)
        return ended.stdout

    def up(self) -> None:
        until(lambda: "Name" in self.virsh("list"))
        assert "created" in self.virsh("create", f"{self.folder}/domain.xml"), (
            self.folder / "libvirtd.log"
        ).read_text()

    def period(self) -> str:
        return self.virsh("dumpxml", "vm1", "--xpath", "//memballoon/stats").strip()

    def close(self) -> None:
        self.virsh("destroy", "vm1")
        self.daemon.terminate()
        self.daemon.wait(PATIENCE)
