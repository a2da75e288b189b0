"""Write hmp/replies/qemu-7.2.json anew from the QEMU that is installed: `python -m tests.conformance.record_replies`.

What hmp answers by code of its own, what is empty of meaning without a processor, and what is larger than the rest
together is left out.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from hmp.qmp.commands import COMMANDS
from tests.support.qemu import PROGRAM

CPU = "/machine/unattached/device[0]"
TARGET = Path(__file__).parents[2] / "hmp" / "replies" / "qemu-7.2.json"
LEFT_OUT = {"query-command-line-options", "query-cpu-definitions", "query-machines", "query-stats", "query-yank",
            "query-cpu-model-expansion", "query-sev-attestation-report"}  # fmt: skip
CODED = (
    "send-key",
    "input-send-event",
    "screendump",
    "inject-nmi",
    "migrate-set-capabilities",
    "migrate-set-parameters",
)
LINES = (
    "block block-jobs blockstats capture dirty_rate dump hotpluggable-cpus iothreads mem memory-devices mice migrate"
    " migrate_parameters network numa opcount profile rdma replay sev sgx spice tlb tpm usb usernet"
    " vcpu_dirty_limit vm-generation-id vnc"
)


class Qemu:
    def __init__(self) -> None:
        assert PROGRAM is not None
        command = [PROGRAM, "-accel", "tcg", "-machine", "pc", "-nodefaults", "-display", "none", "-S", "-m", "512",
                   "-device", "virtio-balloon-pci,id=balloon0", "-qmp", "stdio"]  # fmt: skip
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        self.read()
        self.ask("qmp_capabilities")

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        return message

    def ask(self, name: str, **arguments: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.process.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        while "event" in (message := self.read()):
            pass
        return message


def needed(schema: dict[str, Any], names: list[str]) -> list[dict[str, Any]]:
    """The entries of these commands and of all types that they use, in the order of the schema."""
    seen: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in seen or name not in schema:
            continue
        seen.add(name)
        entry = schema[name]
        left += [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]
        left += [each["type"] for key in ("members", "variants") for each in entry.get(key, ()) if "type" in each]
    return [entry for name, entry in schema.items() if name in seen]


def main() -> None:
    qemu = Qemu()
    version = qemu.ask("query-version")["return"]["qemu"]
    schema = {each["name"]: each for each in qemu.ask("query-qmp-schema")["return"]}
    replies: dict[str, Any] = {}
    for each in sorted(qemu.ask("query-commands")["return"], key=lambda each: str(each["name"])):
        name = each["name"]
        if name.startswith("query-") and name not in LEFT_OUT | COMMANDS.keys() and "rocker" not in name:
            answer = qemu.ask(name)
            answer.get("error", {}).pop("data", None)
            replies[name] = [answer]
    listed = qemu.ask("qom-list", path=CPU)["return"]
    replies["qom-list"] = [{"arguments": {"path": CPU}, "return": listed}]
    replies["qom-get"] = []
    for each in listed:
        answer = qemu.ask("qom-get", path=CPU, property=each["name"])
        if "return" in answer:
            replies["qom-get"].append({"arguments": {"path": CPU, "property": each["name"]}, **answer})
    lines = {}
    for line in LINES.split():
        text = qemu.ask("human-monitor-command", command_line=f"info {line}")["return"]
        lines[f"info {line}"] = text.replace("\r\n", "\n")
    found = {
        "version": 1,
        "qemu": f"{version['major']}.{version['minor']}.{version['micro']}",
        "schema": needed(schema, [*(replies.keys() - {"qom-list", "qom-get"}), *CODED]),
        "qmp": replies,
        "hmp": lines,
    }
    text = "{\n" + ",\n".join(f"{json.dumps(key)}: {_rows(value)}" for key, value in found.items()) + "\n}\n"
    TARGET.write_text(text)
    qemu.process.kill()
    qemu.process.communicate()


def _rows(value: Any) -> str:
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items()) + "\n}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(f" {json.dumps(each)}" for each in value) + "\n]"
    return json.dumps(value)


if __name__ == "__main__":
    main()
