"""The only module of the package that acts: it writes the files of a plan and runs its commands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxtl.errors import ConfigError, cannot_write
from jaxtl.host import signals
from jaxtl.launching.plan import LaunchPlan


def write(plan: LaunchPlan, folder: Path) -> None:
  """Writes the files; refuses a folder that has other files of these names.

  Raises:
    ConfigError: the folder has the files of another launch.
    InputError: it cannot be written.
    StorageError: the disk is full or fails.
  """
  for file in plan.files:
    path = folder / file.path
    if path.exists() and path.read_bytes() != file.text.encode():
      raise ConfigError(f"{path} belongs to another launch; remove it, or give another --name or --write")
  try:
    for file in plan.files:
      path = folder / file.path
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(file.text, encoding="utf-8")
  except OSError as error:
    raise cannot_write(folder, error, instead="give another --write") from error


def check_setup(texts: Sequence[str]) -> None:
  """Has bash read the lines of `--setup` without running them; does nothing where bash is missing.

  Raises:
    ConfigError: they are not whole commands, so that they would also swallow the lines that follow.
  """
  if not texts or (bash := shutil.which("bash")) is None:
    return
  script = "".join(text.rstrip("\n") + "\n" for text in texts)
  environment = {name: value for name, value in os.environ.items() if name not in ("BASH_ENV", "SHELLOPTS")}
  done = subprocess.run(
    [bash, "-n"], input=script, env=environment | {"LC_ALL": "C"}, capture_output=True, text=True
  )
  if done.returncode or done.stderr:  # an unfinished here-document is only a warning
    said = done.stderr.strip().partition("\n")[0].removeprefix(f"{bash}: ")
    raise ConfigError(f"--setup is not valid shell text ({said}); close its quotes and blocks")


def submit(plan: LaunchPlan, folder: Path) -> int:
  """Writes the files and runs the commands.

  Returns:
    The exit code of the first command that fails, or 0.

  Raises:
    ConfigError: a program is missing, or the files cannot be written; nothing has been run.
  """
  environment = {**os.environ, "PATH": _path()}
  for program in plan.programs:
    if shutil.which(program, path=environment["PATH"]) is None:
      raise ConfigError(
        f"there is no {program} on PATH, which this target needs; install it, or use --dry-run"
      )
  write(plan, folder)
  passed_on = signals.PassedOn()
  try:
    for command in plan.commands:
      code = passed_on.wait(subprocess.Popen(command, env=environment))
      if code:
        code = code if code > 0 else 128 - code
        print(f"jaxtl: {shlex.join(command)} ended with exit code {code}", file=sys.stderr)
        return code
  finally:
    passed_on.restore()
  for command in plan.later:
    print(f"later: {shlex.join(command)}")
  return 0


def _path() -> str:
  """Returns PATH extended by the folder of this Python.

  Programs such as `jaxtl` are then found even if the environment is not activated.
  """
  return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
