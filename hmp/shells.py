"""Completion in shells: click's, but it keeps the `--option=` that was typed.

click returns only the value. zsh and fish replace the whole word, so `--guest=lin` became `linux`, or nothing. bash
splits the line at `=`, and click took that sign for the value.
"""

from __future__ import annotations

import os

import click
from click import shell_completion as shells


class Whole(shells.ShellComplete):
    """For shells that replace the whole word: each completion begins with the `--option=` that was typed."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """As click's; also remember the `--option=`."""
        args, begun = super().get_completion_args()
        option, equals, _ = begun.partition("=")
        self.before = option + equals if equals and option.startswith("-") else ""
        return args, begun

    def format_completion(self, item: shells.CompletionItem) -> str:
        """As click's, with the `--option=` before the value."""
        item.value = self.before + item.value
        return super().format_completion(item)


class Bash(shells.BashComplete):
    """As click's, but joins the words that bash split at `=`. bash replaces only the text after it."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one at the cursor, and that one."""
        words = shells.split_arg_string(os.environ["COMP_WORDS"])[1:]
        at = int(os.environ["COMP_CWORD"]) - 1
        typed: list[str] = []
        for word in words[: at + 1]:
            # bash passes `--guest=lin` as three words.
            if typed and (word == "=" or typed[-1].endswith("=")):
                typed[-1] += word
            else:
                typed.append(word)
        return (typed[:-1], typed[-1]) if len(words) > at else (typed, "")


class Zsh(Whole, shells.ZshComplete):
    """As click's; file names, which zsh finds itself, are also completed after `--option=`."""

    source_template = shells.ZshComplete.source_template.replace("_path_files", "compset -P '--*='; _path_files")


class Fish(Whole, shells.FishComplete):
    """As click's; fish finds file names after `--option=` itself if it is asked for the whole word."""

    source_template = shells.FishComplete.source_template.replace(
        "__fish_complete_path $metadata[2]", "complete -C \"'' \"(commandline -t)"
    ).replace("__fish_complete_directories $metadata[2]", "complete -C \"'' \"(commandline -t) | string match '*/'")


def complete(command: click.Command, asked: str) -> int:
    """Answer a shell, which asks in the variable `_NAME_COMPLETE`. Returns the exit status."""
    # These take the place of click's own classes with the same names.
    for kind in (Bash, Zsh, Fish):
        shells.add_completion_class(kind)
    name = str(command.name)
    return shells.shell_complete(command, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE", asked)
