"""What a shell is told when it asks what can be typed next: click's answers, with `--option=value` kept as typed.

click completes the value alone. zsh and fish take what they are told for the whole word, so `--guest=lin` became
`linux`, or nothing. bash breaks the line at `=`, and click took that for the value.
"""

from __future__ import annotations

import os

import click
from click import shell_completion as shells


class Whole(shells.ShellComplete):
    """For shells that replace the whole word: what is offered begins with the `--option=` that was typed."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """As click's."""
        args, begun = super().get_completion_args()
        option, equals, _ = begun.partition("=")
        self.before = option + equals if equals and option.startswith("-") else ""
        return args, begun

    def format_completion(self, item: shells.CompletionItem) -> str:
        """As click's."""
        item.value = self.before + item.value
        return super().format_completion(item)


class Bash(shells.BashComplete):
    """As click's, with what bash broke at `=` put together again. bash replaces only what stands behind it."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor's, and that one."""
        words = shells.split_arg_string(os.environ["COMP_WORDS"])[1:]
        at = int(os.environ["COMP_CWORD"]) - 1
        typed: list[str] = []
        for word in words[: at + 1]:
            if typed and (word == "=" or typed[-1].endswith("=")):
                typed[-1] += word
            else:
                typed.append(word)
        return (typed[:-1], typed[-1]) if len(words) > at else (typed, "")


class Zsh(Whole, shells.ZshComplete):
    """As click's; the file names that zsh finds by itself come behind `--option=` as well."""

    source_template = shells.ZshComplete.source_template.replace("_path_files", "compset -P '--*='; _path_files")


class Fish(Whole, shells.FishComplete):
    """As click's; fish finds files behind `--option=` by itself, if it is asked for the whole word."""

    source_template = shells.FishComplete.source_template.replace(
        "__fish_complete_path $metadata[2]", "complete -C \"'' \"(commandline -t)"
    ).replace("__fish_complete_directories $metadata[2]", "complete -C \"'' \"(commandline -t) | string match '*/'")


def complete(command: click.Command, asked: str) -> int:
    """Answer a shell, which asks in the variable `_NAME_COMPLETE`; returns the exit status."""
    for kind in (Bash, Zsh, Fish):
        shells.add_completion_class(kind)
    name = str(command.name)
    return shells.shell_complete(command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE", asked)
