"""Verb `completion`: the lines that let a shell complete verbs and options."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from features.errors import ConfigError
from pipelines.commands.options import argument

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Completion:
    """What `completion` is asked for."""

    shell: str = argument(choices=SHELLS)
    """The shell: bash, zsh or fish; put the lines printed for it into its start file (docs/command.md)."""


REQUEST = Completion


def run(request: Completion) -> None:
    """Print the lines for one shell."""
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise ConfigError("completion needs argcomplete, which is not installed; pip install argcomplete") from error
    sys.stdout.write(shellcode(["freezeframe"], shell=request.shell))
