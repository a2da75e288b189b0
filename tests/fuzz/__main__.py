"""Fuzz the targets: python -m tests.fuzz [--seconds N] [--compare] [TARGET...]; without names all, one after another.

Each target gets a corpus directory below .fuzz/, kept between runs. A finding ends that target with a non-zero exit
status and the input in a file named in the output.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz import once

CORPUS = Path(".fuzz")
ROOT = Path(__file__).parents[2]
NAMES = (
    "rings", "ring", "stats", "vhost", "qmp", "session", "hmp", "grammar", "words", "editor", "script", "snapshot",
)  # fmt: skip
"""As in tests.fuzz.targets, which is imported only where it is instrumented."""


def run_target(name: str, seconds: int, corpus: Path, *, compare: bool) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    if compare or not once.available():
        with atheris.instrument_imports(include=["device", "hmp"]):
            from tests.fuzz.targets import TARGETS
    else:
        once.watch(atheris, (f"{ROOT}/device/", f"{ROOT}/hmp/"))
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = [f"-max_total_time={seconds}", f"-max_len={target.longest}", "-timeout=20", "-rss_limit_mb=2048"]
    flags += [f"-artifact_prefix={corpus.parent}/{name}-", "-print_final_stats=1", "-verbosity=1"]
    if target.words:
        words = corpus.parent / f"{name}.dict"
        words.write_text("".join(f'"{_spelled(word)}"\n' for word in target.words))
        flags.append(f"-dict={words}")
    further = {}
    if target.mutate is not None:
        respell = target.mutate

        def mutate(data: bytes, limit: int, seed: int) -> bytes:
            return respell(data, limit, seed) if seed % 3 else bytes(atheris.Mutate(data, limit))

        further["custom_mutator"] = mutate
    atheris.Setup([sys.argv[0], *flags, str(corpus)], target.function, **further)
    atheris.Fuzz()


def _spelled(word: str) -> str:
    """Return the word as libFuzzer's dictionaries spell it."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "surrogateescape"))


def main() -> int:
    """Run the targets asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--compare", action="store_true", help="trace comparisons too: slower, finds magic numbers")
    parser.add_argument("--here", action="store_true", help="fuzz the one target in this process")
    parser.add_argument("target", nargs="*", choices=[*NAMES, []])
    arguments = parser.parse_args()
    if arguments.here:
        name = arguments.target[0]
        run_target(name, arguments.seconds, arguments.corpus / name, compare=arguments.compare)
    status = 0
    for name in arguments.target or NAMES:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", "--here", f"--seconds={arguments.seconds}"]
        command += ["--compare"] if arguments.compare else []
        status |= subprocess.run([*command, f"--corpus={arguments.corpus}", name]).returncode
    return int(status != 0)


if __name__ == "__main__":
    sys.exit(main())
