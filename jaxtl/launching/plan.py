"""What a launch amounts to: files, and the commands that submit them."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import PurePath


@dataclasses.dataclass(frozen=True)
class File:
  """One file: its path below the launch's folder, and its text."""

  path: str
  text: str


@dataclasses.dataclass(frozen=True)
class LaunchPlan:
  """All that a target does.

  Attributes:
    files: written first.
    commands: run one after the other in the current folder; the first that fails ends it.
    programs: that must be there.
    later: commands for people: how to look at the run, and how to end it.
  """

  files: tuple[File, ...]
  commands: tuple[tuple[str, ...], ...]
  programs: tuple[str, ...]
  later: tuple[tuple[str, ...], ...] = ()

  def text(self, folder: PurePath) -> str:
    """Files and commands as they would be submitted, for people."""
    parts = [f"==> {folder / file.path}\n{file.text}" for file in self.files]
    parts.append("==> commands\n" + "".join(shlex.join(command) + "\n" for command in self.commands))
    if self.later:
      parts.append("==> later\n" + "".join(shlex.join(command) + "\n" for command in self.later))
    return "\n".join(parts)
