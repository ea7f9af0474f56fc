"""Runs and checks config files, and finds the study that a config names."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import runpy
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.config import Verbatim
from jaxtl.errors import ConfigError

Rows = Callable[..., Iterator[Any]]
# Arms cannot have these names, because jaxtl's own files in a working folder use them.
RESERVED = ("config", "data", "env", "exit_reason", "log", "quarantine", "report", "stacks")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """A checked config file.

  Attributes:
    study: import path of the generator of rows.
    base: fields of the dataclass that the generator takes.
    arms: nested differences to `base`.
    seeds: the seeds that every arm runs with.
    title: title of the report.
    notes: sentences for the report, such as what the data are and where the recipe is from.
  """

  study: str
  base: Verbatim
  arms: Mapping[str, Verbatim]
  seeds: tuple[int, ...] = (0,)
  title: str = ""
  notes: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    good = len(self.seeds) > 0 and min(self.seeds) >= 0 and len(set(self.seeds)) == len(self.seeds)
    config_lib.require(seeds=(self.seeds, good, "distinct integers of 0 or more"))
    config_lib.check_names(self.arms, at="arms", reserved=RESERVED)


def load_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """Returns the config of a Python file as plain data, with overrides applied.

  The output of the file goes to standard error. Its folder and the current folder are appended to the import
  path, so that the config can name components of modules there, however jaxtl was started.

  Raises:
    ConfigError: the file does not exist, has no `get_config`, fails or exits, or an override is invalid.
  """
  if not path.is_file():
    raise ConfigError(f"no config at {path}; expected a Python file with get_config()")
  for folder in (str(path.resolve().parent), os.getcwd()):
    if folder not in sys.path:
      sys.path.append(folder)
  with _interrupts() as interrupts:
    try:
      plain = _run(path)
    except ConfigError:
      raise
    except BaseException as error:  # a config is a program: it can fail in any way, or exit
      if interrupts:
        raise
      raise ConfigError(f"{path} cannot be run: {config_lib.summary(error)}") from error
  if not isinstance(plain, dict):
    raise ConfigError(f"{path}: get_config() returns {plain!r}; expected a ConfigDict")
  return config_lib.override(plain, overrides)


def _run(path: Path) -> Any:
  """Runs a Python file, and returns the result of its `get_config` as plain data."""
  with contextlib.redirect_stdout(sys.stderr):
    module = runpy.run_path(str(path))
    if not callable(module.get("get_config")):
      raise ConfigError(f"{path} has no get_config(); a config is a function that returns a ConfigDict")
    return config_lib.plain(module["get_config"]())


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
  """Collects interrupts by the user, as opposed to a KeyboardInterrupt that the config raises."""
  found: list[int] = []
  if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    yield found
    return

  def interrupt(number: int, frame: Any) -> None:
    found.append(number)
    raise KeyboardInterrupt

  if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, interrupt)
  try:
    yield found
  finally:
    if signal.getsignal(signal.SIGINT) is interrupt:
      signal.signal(signal.SIGINT, signal.default_int_handler)


def parse_config(config: Mapping[str, Any]) -> tuple[StudyConfig, dict[str, Any]]:
  """Checks a config; returns it, and every arm as the study's dataclass.

  Raises:
    ConfigError: any mistake in the config or in the fields of an arm.
  """
  study = config_lib.parse(config, StudyConfig)
  if not study.arms:
    raise ConfigError("config.arms is empty; write arms=dict(name=dict()) for a single run of the base")
  cls = study_class(study.study)
  arms: dict[str, Any] = {
    name: config_lib.parse(config_lib.merge(study.base, difference), cls, at=f"config.arms.{name}")
    for name, difference in study.arms.items()
  }
  return study, arms


def study_class(path: str) -> type:
  """Returns the dataclass that a study's generator takes."""
  rows = config_lib.find(path, at="config.study")
  try:
    parameters = list(inspect.signature(rows).parameters)
    hint = typing.get_type_hints(rows).get(parameters[0]) if parameters else None
  except (NameError, TypeError, ValueError):  # a function in C, or annotations that cannot be resolved
    hint = None
  if not dataclasses.is_dataclass(hint):
    raise ConfigError(
      f"config.study names {path!r}, which is not a study; expected rows(study: Settings, *, seed, workdir, "
      "runtime), whose first parameter is annotated with a dataclass"
    )
  return typing.cast(type, hint)


def check_chosen(arms: Sequence[str] | None, seeds: Sequence[int] | None, study: StudyConfig) -> None:
  """Checks arms and seeds that the user chose.

  Raises:
    ConfigError: the config has no such arm or seed.
  """
  for name in arms or ():
    if name not in study.arms:
      raise ConfigError(f"no arm {name!r}; the config has {', '.join(study.arms)}")
  for seed in seeds or ():
    if seed not in study.seeds:
      raise ConfigError(f"no seed {seed}; the config has {', '.join(map(str, study.seeds))}")
