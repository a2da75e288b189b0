"""A real browser, and a page that tries to run commands on the monitors of this machine."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import Program
from tests.support.timing import PATIENCE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-sync", "--disable-component-update"]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.external,
    pytest.mark.skipif(BROWSER is None, reason="needs a browser (Debian: chromium)"),
]

PAGE = """<!doctype html><meta charset="utf-8"><body><script>
const ports = %s, seconds = s => new Promise(done => setTimeout(done, 1000 * s));
const lines = '\\nballoon 32\\nstop\\nquit\\n{"execute":"qmp_capabilities"}{"execute":"balloon","arguments":' +
  '{"value":33554432}}{"execute":"stop"}{"execute":"quit"}\\n';
async function attack(port) {
  const place = `http://127.0.0.1:${port}/`, tried = {};
  const note = (name, promise) => promise.then(() => { tried[name] = "answered"; }, () => { tried[name] = "failed"; });
  const tries = [];
  for (const type of ["text/plain", "application/x-www-form-urlencoded"])
    tries.push(note("fetch " + type,
      fetch(place, {method: "POST", mode: "no-cors", headers: {"Content-Type": type}, body: lines})));
  tries.push(note("own method", fetch(place, {method: "balloon", body: lines})));
  tries.push(note("put", fetch(place, {method: "PUT", body: lines})));
  tries.push(note("get", fetch(place + "%%0Aballoon%%2032%%0Aquit%%0A", {mode: "no-cors"})));
  tries.push(note("tls", fetch(place.replace("http", "https"), {method: "POST", mode: "no-cors", body: lines})));
  navigator.sendBeacon(place, lines);
  new EventSource(place);
  new WebSocket(place.replace("http", "ws")).onopen = () => { tried.socket = "answered"; };
  new Image().src = place + "a.png";
  const frame = document.createElement("iframe"), form = document.createElement("form");
  frame.name = "f" + port;
  Object.assign(form, {method: "POST", action: place, enctype: "text/plain", target: frame.name});
  const field = document.createElement("textarea");
  field.name = "a" + lines;
  field.value = lines;
  form.append(field);
  const loaded = new Promise(done => { frame.onload = done; });
  document.body.append(frame, form);
  form.submit();
  await Promise.all([...tries, Promise.race([loaded, seconds(5)])]);
  return [port, tried];
}
Promise.all(ports.map(attack)).then(async found => {
  await seconds(0.5);
  await fetch("/done", {method: "POST", body: JSON.stringify(Object.fromEntries(found))});
});
</script>"""


class _Bait:
    """A port that reads everything and answers nothing: it shows what the page really sends to such a port."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.taken: list[bytes] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while True:
            client, _ = self.listener.accept()
            with client:
                client.settimeout(0.2)
                data = b""
                try:
                    while piece := client.recv(65536):
                        data += piece
                except OSError:  # a browser that waits for its answer
                    pass
            if data == b"end":
                return
            self.taken.append(data)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"end")
        self._thread.join(PATIENCE)
        self.listener.close()


def visit(ports: list[int], profile: Path) -> dict[str, dict[str, str]]:
    """Let the browser open the page; return the results that the page reports, by port."""
    found: list[dict[str, dict[str, str]]] = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer((PAGE % json.dumps(ports)).encode())

        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"")
            done.set()

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        browser = subprocess.Popen(
            [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", f"http://127.0.0.1:{server.server_address[1]}/"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert done.wait(PATIENCE), "the page did not come to its end"
        finally:
            browser.terminate()
            browser.wait(PATIENCE)
            server.shutdown()
            serving.join(PATIENCE)
    return found[0]


def history(port: str) -> bytes:
    """Return what `info history` says to a client of an HMP monitor."""
    said = b""
    with socket.create_connection(("127.0.0.1", int(port)), PATIENCE) as client:
        client.sendall(b"info history\n")
        while said.count(b"(qemu) ") < 2:
            said += client.recv(4096)
    return said.rpartition(b"\x1b[K\r\n")[2].removesuffix(b"(qemu) ")


def test_a_page_cannot_change_the_machine(tmp_path: Path) -> None:
    served = ["--monitor", "tcp:127.0.0.1:0", "--monitor", "telnet:127.0.0.1:0", "--qmp", "tcp:127.0.0.1:0"]
    bait = _Bait()
    try:
        with Program("--headless", "-m", "64", *served) as program:
            places = [word.rpartition(":")[2] for word in program.ready.split() if "127.0.0.1" in word]
            assert len(places) == 3
            found = visit([bait.port, *map(int, places)], tmp_path / "profile")
            talker = program.qmp()
            assert talker.ask("query-status")["return"]["status"] == "running"
            assert talker.ask("query-balloon")["return"]["actual"] == 64 << 20
            talker.close()
            histories = [history(place) for place in places[:2]]
            status, _, complaints = program.end()
    finally:
        bait.close()
    assert histories == [b"0: 'info history'\r\n"] * 2  # no line of the page's was entered
    assert status == 0
    assert complaints.startswith("hmp: hung up on a client: it spoke ")
    # The page did try: to a port that does not hang up it sends commands as separate lines, in plain HTTP and in forms.
    assert len([data for data in bait.taken if b"\nballoon 32\n" in data]) >= 2
    assert any(data.startswith(b"\x16\x03") for data in bait.taken)
    assert {data.partition(b" ")[0] for data in bait.taken} >= {b"GET", b"POST", b"OPTIONS"}
    for place in places:
        assert set(found[place].values()) == {"failed"}
        assert len(found[place]) == 6
