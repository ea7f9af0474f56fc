"""The runner: arms x seeds of any study, each finished cell kept as a file.

A config is a module with `get_config()`:

  study   import path of a generator `rows(study: SomeDataclass, *, seed, workdir, runtime)`
  seeds   the seeds that every arm runs with
  base    the fields of SomeDataclass
  arms    name -> nested difference to `base`
  title, notes  for the report (optional)

In the working folder: `config.json`, `env.json`, `data.json`, `log.txt`, `<arm>/<seed>/` with `rows.jsonl`,
`metrics.jsonl`, `checkpoints/`, `classes.json`, and `report/`.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import inspect
import json
import platform
import runpy
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtl import config as config_lib
from jaxtl.config import Verbatim
from jaxtl.errors import ConfigError, InputError, RunError
from jaxtl.train.runtime import Runtime, all_data, check_batch_sizes
from jaxtl.train.writer import is_first_process, write_atomically

PACKAGES = ("jaxtl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-cpu")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """A config file, checked.

  Attributes:
    study: the generator of rows, by path.
    base: fields of its dataclass.
    arms: nested differences to `base`.
    seeds: one run of every arm for each.
    title: heads the report.
    notes: sentences for the report: what the data are, where the recipe is from.
  """

  study: str
  base: Verbatim
  arms: Mapping[str, Verbatim]
  seeds: tuple[int, ...] = (0,)
  title: str = ""
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Cell:
  """One arm with one seed: the smallest part of a study that is kept when finished."""

  arm: str
  seed: int
  study: Any
  folder: Path

  @property
  def rows_file(self) -> Path:
    return self.folder / "rows.jsonl"


def load_config(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """The config of a Python file as plain data, overrides applied.

  Raises:
    ConfigError: no such file, a file without `get_config`, or an override that leads nowhere.
  """
  if not path.is_file():
    raise ConfigError(f"no config at {path}; expected a Python file with get_config()")
  try:
    module = runpy.run_path(str(path))
  except (SyntaxError, UnicodeDecodeError, ValueError) as error:
    first = str(error).splitlines()[0]
    raise ConfigError(f"{path} is not a Python file that can be run: {first}") from error
  if "get_config" not in module:
    raise ConfigError(f"{path} has no get_config(); a config is a function that returns a ConfigDict")
  return config_lib.override(config_lib.plain(module["get_config"]()), overrides)


def parse_config(config: Mapping[str, Any]) -> tuple[StudyConfig, dict[str, Any]]:
  """The checked config and every arm as the study's dataclass: all mistakes show here."""
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
  """The dataclass that a study's generator takes."""
  rows = config_lib.find(path, at="config.study")
  parameters = list(inspect.signature(rows).parameters)
  hint = typing.get_type_hints(rows).get(parameters[0]) if parameters else None
  if not dataclasses.is_dataclass(hint):
    raise ConfigError(
      f"config.study names {path!r}, which is no study; expected one like '.studies.pretrain.rows'"
    )
  return typing.cast(type, hint)


def run_study(
  config: Mapping[str, Any],
  *,
  workdir: Path,
  runtime: Runtime,
  arms: Sequence[str] | None = None,
  seeds: Sequence[int] | None = None,
  command: Sequence[str] = (),
) -> list[dict[str, Any]]:
  """Runs all cells that are not finished, or those of `arms` and `seeds`, and returns their rows."""
  study, parsed = parse_config(config)
  for name in arms or ():
    if name not in parsed:
      raise ConfigError(f"no arm {name!r}; the config has {', '.join(parsed)}")
  for seed in seeds or ():
    if seed not in study.seeds:
      raise ConfigError(f"no seed {seed}; the config has {', '.join(map(str, study.seeds))}")
  for name, arm in parsed.items():
    try:
      check_batch_sizes(arm, runtime.mesh)
    except ConfigError as error:
      raise ConfigError(f"config.arms.{name}.{error}") from error
  rows = config_lib.find(study.study)
  cells = [
    Cell(name, seed, arm, workdir / name / str(seed))
    for seed in study.seeds
    for name, arm in parsed.items()
    if (not arms or name in arms) and (not seeds or seed in seeds)
  ]
  unfinished = [cell for cell in cells if not cell.rows_file.exists()]
  # Opens the data: a folder is claimed only by a run that can start.
  _expect(rows, unfinished, runtime)
  claim(workdir, config, command)
  same_data(workdir, unfinished, runtime)
  if is_first_process():
    runtime.progress.log_to(workdir / "log.txt")
  for cell in unfinished:
    found = list(_rows_of(cell, rows, runtime))
    if is_first_process():
      write_atomically(cell.rows_file, "".join(json.dumps(row) + "\n" for row in found))
    runtime.progress.note(f"{cell.arm}/{cell.seed} is done: {_summary(found)}")
  runtime.progress.close()
  return [row for cell in cells for row in read_rows(cell.rows_file)]


def _rows_of(cell: Cell, rows: Callable[..., Iterator[Any]], runtime: Runtime) -> Iterator[dict[str, Any]]:
  """The cell's rows, each with its arm and seed; an error that stops the run says in which cell."""
  try:
    for row in rows(cell.study, seed=cell.seed, workdir=cell.folder, runtime=runtime):
      yield {"arm": cell.arm, "seed": cell.seed, **row}
  except RunError as error:
    raise RunError(f"{cell.arm}/{cell.seed}: {error}", code=error.code) from error


def claim(workdir: Path, config: Mapping[str, Any], command: Sequence[str]) -> None:
  """Makes the working folder this config's, or refuses one that is another config's, with the difference.

  Raises:
    InputError: the folder cannot be written, or was made with another config.
  """
  path = workdir / "config.json"
  if path.exists():
    try:
      old = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
      raise InputError(f"{path} is damaged ({error}); give another --workdir") from error
    found = config_lib.differences(old, dict(config))
    if found:
      raise InputError(
        f"{workdir} was made with another config: {config_lib.first_few(found)}. "
        "Go back to that config, or give another --workdir"
      )
  if not is_first_process():
    return
  try:
    _add_session(workdir / "env.json", environment(command))
    if not path.exists():
      write_atomically(path, json.dumps(config, indent=1) + "\n")
  except OSError as error:
    raise InputError(f"cannot write to {workdir}: {error.strerror}; give another --workdir") from error


def _add_session(path: Path, session: Mapping[str, Any]) -> None:
  """`env.json` is the first session's environment; `later` has what differed in each one after it."""
  if not path.exists():
    first: dict[str, Any] = dict(session)
  else:
    first = json.loads(path.read_text(encoding="utf-8"))
    changed = {key: value for key, value in session.items() if first.get(key) != value}
    first["later"] = [*first.get("later", []), changed]
  write_atomically(path, json.dumps(first, indent=1) + "\n")


def same_data(workdir: Path, cells: Sequence[Cell], runtime: Runtime) -> None:
  """Refuses to mix results of different data: each source keeps the fingerprint that it began with.

  Raises:
    InputError: a source holds other images, labels or classes than when the folder was made.
  """
  path = workdir / "data.json"
  known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
  found = dict(known)
  for data in (data for cell in cells for _, data in all_data(cell.study)):
    name = json.dumps(config_lib.plain(data.source), sort_keys=True)
    if name in found and name not in known:
      continue
    source = runtime.open(data)
    found[name] = {"name": source.name, "num_examples": len(source), "fingerprint": source.fingerprint()}
    if name in known and known[name] != found[name]:
      raise InputError(
        f"{source.name} has changed since {workdir} was made: {known[name]['num_examples']} examples, fingerprint "
        f"{known[name]['fingerprint']}, and now {len(source)}, {found[name]['fingerprint']}. "
        "Bring the old data back, or give another --workdir"
      )
  if is_first_process() and found != known:
    write_atomically(path, json.dumps(found, indent=1) + "\n")


def environment(command: Sequence[str]) -> dict[str, Any]:
  """What a number in the report depends on beside the config."""
  versions = {}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  devices = jax.devices()
  return {
    "command": list(command),
    "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "processor": platform.machine(),
    "versions": versions,
    "devices": [f"{len(devices)} x {devices[0].device_kind}"],
    "processes": jax.process_count(),
  }


def read_rows(path: Path) -> list[dict[str, Any]]:
  """The rows of one cell."""
  return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_rows(workdir: Path) -> list[dict[str, Any]]:
  """The rows of all finished cells, in the order of the config's arms and seeds.

  Raises:
    InputError: no study ran in `workdir`.
  """
  path = workdir / "config.json"
  if not path.is_file():
    raise InputError(f"no study in {workdir}: there is no config.json; give the --workdir of a run")
  config = json.loads(path.read_text(encoding="utf-8"))
  files = [
    workdir / arm / str(seed) / "rows.jsonl" for arm in config["arms"] for seed in config.get("seeds", [0])
  ]
  return [row for file in files if file.exists() for row in read_rows(file)]


def _expect(rows: Callable[..., Iterator[Any]], cells: Sequence[Cell], runtime: Runtime) -> None:
  """Tells the progress line how much is to be done, where the study knows."""
  module = sys.modules[rows.__module__]
  if hasattr(module, "work"):
    for cell in cells:
      runtime.progress.expect(module.work(cell.study, runtime))
  if hasattr(module, "work_once"):
    for cell in {cell.arm: cell for cell in cells}.values():
      runtime.progress.expect(module.work_once(cell.study, runtime))


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
  """The numbers of a finished cell in one line."""
  parts = []
  for row in rows:
    if row.get("kind") == "pretrain":
      parts += [f"{key} {row[key]:.3f}" for key in row if key.endswith("/top1")]
      if "lambda_max" in row:
        parts.append(f"lambda_max {row['lambda_max']:.3g}")
  for protocol in dict.fromkeys(row["protocol"] for row in rows if row.get("kind") == "transfer"):
    values = [row["accuracy"] for row in rows if row.get("protocol") == protocol]
    parts.append(f"{protocol} {sum(values) / len(values):.3f}")
  return ", ".join(parts) or f"{len(rows)} rows"
