"""Fuzz the targets: python -m tests.fuzz [--seconds N] [--runs N] [TARGET...]; without names all, one after another.

Each target gets a corpus directory below .fuzz/, kept between runs. A finding ends that target with a non-zero exit
status and the input in a file named in the output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CORPUS = Path(".fuzz")
NAMES = ("rings", "qmp", "hmp", "snapshot")
"""As in tests.fuzz.targets, which is imported only where it is instrumented."""


def run_target(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["device", "hmp"]):
        from tests.fuzz.targets import TARGETS, respell_state

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        return respell_state(data, limit, seed) if seed % 3 else bytes(atheris.Mutate(data, limit))

    function, seeds, longest = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", f"-max_len={longest}", "-timeout=20", "-rss_limit_mb=2048"]
    flags += [f"-artifact_prefix={corpus.parent}/{name}-", "-print_final_stats=1", "-verbosity=1"]
    mutator = {"custom_mutator": mutate} if name == "snapshot" else {}
    atheris.Setup([sys.argv[0], *flags, str(corpus)], function, **mutator)
    atheris.Fuzz()


def main() -> int:
    """Run the targets asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--here", action="store_true", help="fuzz the one target in this process")
    parser.add_argument("target", nargs="*", choices=[*NAMES, []])
    arguments = parser.parse_args()
    if arguments.here:
        run_target(arguments.target[0], arguments.seconds, arguments.corpus / arguments.target[0])
    status = 0
    for name in arguments.target or NAMES:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--here", f"--seconds={arguments.seconds}"]
        status |= subprocess.run([*command, f"--corpus={arguments.corpus}", name]).returncode
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
