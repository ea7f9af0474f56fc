"""A launch as data: files, and the commands that submit them."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import PurePath


@dataclasses.dataclass(frozen=True)
class File:
  """One file: its path below the folder of the launch, and its text."""

  path: str
  text: str


@dataclasses.dataclass(frozen=True)
class LaunchPlan:
  """Everything that a target does.

  Attributes:
    files: written first.
    commands: run one after another in the current folder; the first failure ends the launch.
    programs: programs that must be installed.
    later: commands for people, to follow the run and to end it.
  """

  files: tuple[File, ...]
  commands: tuple[tuple[str, ...], ...]
  programs: tuple[str, ...]
  later: tuple[tuple[str, ...], ...] = ()

  def text(self, folder: PurePath) -> str:
    """Formats files and commands as they would be submitted, for people."""
    parts = [f"==> {folder / file.path}\n{file.text}" for file in self.files]
    parts.append("==> commands\n" + "".join(shlex.join(command) + "\n" for command in self.commands))
    if self.later:
      parts.append("==> later\n" + "".join(shlex.join(command) + "\n" for command in self.later))
    return "\n".join(parts)
