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

import contextlib
import dataclasses
import inspect
import json
import os
import runpy
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl.config import Verbatim
from jaxtl.errors import ConfigError, InputError, NonFiniteLossError, RunError, cannot_write
from jaxtl.studies import provenance
from jaxtl.train import compiled, processes, stored
from jaxtl.train.guard import on_record, only_run_in
from jaxtl.train.runtime import Runtime, all_data, check_batch_sizes
from jaxtl.train.writer import is_first_process, put_aside, write_atomically

Rows = Callable[..., Iterator[Any]]
# Names in a working folder that arms cannot have, since jaxtl's own files have them.
RESERVED = ("config", "data", "env", "exit_reason", "log", "quarantine", "report", "stacks")


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

  def __post_init__(self) -> None:
    good = len(self.seeds) > 0 and min(self.seeds) >= 0 and len(set(self.seeds)) == len(self.seeds)
    config_lib.require(seeds=(self.seeds, good, "different whole numbers from 0"))
    config_lib.check_names(self.arms, at="arms", reserved=RESERVED)


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

  What the file prints goes to standard error. Its folder joins the end of the import path, and so does the
  current folder, so that the config can name components of modules there, however jaxtl was started.

  Raises:
    ConfigError: no such file, a file without `get_config`, one that fails or exits, or an override that
      leads nowhere.
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
  """What `get_config` of a Python file returns, as plain data."""
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
  try:
    parameters = list(inspect.signature(rows).parameters)
    hint = typing.get_type_hints(rows).get(parameters[0]) if parameters else None
  except (NameError, TypeError, ValueError):  # a function in C, or annotations that lead nowhere
    hint = None
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
  check_chosen(arms, seeds, study)
  rows = config_lib.find(study.study)
  cells = [
    Cell(name, seed, arm, workdir / name / str(seed))
    for name, arm in parsed.items()  # an arm's seeds run one after the other, and share its compiled programs
    for seed in study.seeds
    if (not arms or name in arms) and (not seeds or seed in seeds)
  ]
  finished = processes.from_first(lambda: [str(cell.rows_file) for cell in cells if _is_finished(cell)])
  unfinished = [cell for cell in cells if str(cell.rows_file) not in finished]
  to_run = {cell.arm: cell.study for cell in unfinished}
  for name, arm in runtime.moving(to_run.items()):
    rehearse_arm(rows, name, arm, runtime)
    compiled.next_arm()
  # Opens the data: a folder is claimed only by a run that can start.
  for name, arm in runtime.moving(to_run.items()):
    _check_arm(rows, "check_data", name, arm, runtime)
    compiled.next_arm()
  _expect(rows, unfinished, runtime)
  data = fingerprints([cell.study for cell in unfinished], runtime) if unfinished else None
  processes.check_agreement(
    {"config": config, "code": provenance.code_digest(), "versions": provenance.versions(), "data": data}
  )
  asked: dict[str, list[Any]] = {"arms": list(arms or study.arms), "seeds": list(seeds or study.seeds)}
  if not unfinished:
    claim(workdir, config, command, asked=asked)
    return _all_rows_of(cells)
  with contextlib.ExitStack() as stack:
    stack.enter_context(only_run_in(workdir, note=runtime.progress.note))
    # Before `claim`, which writes some of these files with a digest.
    old = processes.from_first(lambda: _files_without_digest(workdir, cells))
    changed = claim(workdir, config, command, asked=asked, data=data)
    stack.enter_context(on_record(workdir))
    if is_first_process():
      runtime.progress.log_to(workdir / "log.txt")
    for line in changed:
      runtime.progress.note(f"not as in the first session: {line}")
    runtime.list_unreadable()
    if old:
      more = f" and {len(old) - 1} more" if len(old) > 1 else ""
      runtime.progress.note(
        f"without a digest, as an older version wrote files, and taken as they are: {old[0]}{more}"
      )
    processes.from_first(lambda: _put_damaged_aside(cells, runtime.progress.note))
    session = processes.from_first(lambda: len(provenance.read_sessions(workdir / "env.json")["later"]))
    _run_cells(rows, unfinished, runtime, session=session)
    runtime.progress.close()
  return _all_rows_of(cells)


def _run_cells(rows: Rows, cells: Sequence[Cell], runtime: Runtime, *, session: int) -> None:
  """Runs cells one after the other, and writes the rows of each; `session` is this session's number."""
  for before, cell in zip([None, *cells], cells):
    if before is not None and before.arm != cell.arm:
      compiled.next_arm()
    found = [{"session": session} | row for row in _rows_of(cell, rows, runtime)]
    if is_first_process():
      write_atomically(cell.rows_file, stored.lines_text(found))
    runtime.progress.note(f"{cell.arm}/{cell.seed} is done: {_summary(found)}")


def _is_finished(cell: Cell) -> bool:
  """Whether the rows of a cell are there, and whole."""
  try:
    return cell.rows_file.exists() and read_rows(cell.rows_file) is not None
  except InputError:
    return False


def _files_without_digest(workdir: Path, cells: Sequence[Cell]) -> list[str]:
  """The files of a folder that say what it is and what was measured, and have no digest."""
  own = [workdir / name for name in ("config.json", "data.json", "env.json")]
  return [str(path) for path in (*own, *(cell.rows_file for cell in cells)) if stored.lacks_digest(path)]


def _put_damaged_aside(cells: Sequence[Cell], note: Callable[[str], None]) -> None:
  """Renames damaged rows, whose cells are measured again."""
  for cell in cells:
    if cell.rows_file.exists() and not _is_finished(cell):
      aside = put_aside(cell.rows_file)
      note(
        f"{cell.rows_file} is damaged. It is {aside.name} now, and {cell.arm}/{cell.seed} is measured again"
      )


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


def _all_rows_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
  return processes.from_first(lambda: [row for cell in cells for row in read_rows(cell.rows_file)])


def rehearse_arm(rows: Rows, name: str, arm: Any, runtime: Runtime) -> None:
  """Makes what the arm will make, without data: a mistake shows now, and not after hours of training.

  A study's module may have `rehearse(study, runtime)`, and `check_data(study, runtime)` for what only
  the opened data tell.

  Raises:
    ConfigError: names the arm.
  """
  try:
    check_batch_sizes(arm, runtime.mesh)
  except ConfigError as error:
    raise ConfigError(f"config.arms.{name}.{error}") from error
  _check_arm(rows, "rehearse", name, arm, runtime)


def _check_arm(rows: Rows, what: str, name: str, arm: Any, runtime: Runtime) -> None:
  try:
    if check := hook(rows, what):
      check(arm, runtime)
  except InputError as error:
    raise type(error)(f"config.arms.{name}: {error}") from error


def _rows_of(cell: Cell, rows: Rows, runtime: Runtime) -> Iterator[dict[str, Any]]:
  """The cell's rows, each with its arm and seed; an error that stops the run says in which cell."""
  try:
    for row in rows(cell.study, seed=cell.seed, workdir=cell.folder, runtime=runtime):
      yield {"arm": cell.arm, "seed": cell.seed, **row}
  except (RunError, NonFiniteLossError) as error:
    raise type(error)(f"{cell.arm}/{cell.seed}: {error}") from error


def claim(
  workdir: Path,
  config: Mapping[str, Any],
  command: Sequence[str],
  *,
  asked: Mapping[str, Sequence[Any]] | None = None,
  data: Mapping[str, Any] | None = None,
) -> list[str]:
  """Makes the working folder this config's and these data's; refuses another's, with the difference.

  Args:
    asked: the "arms" and "seeds" of this session; None: all.
    data: of `fingerprints`; None where nothing is left to run: such a session leaves no trace.

  Returns:
    How this session differs from the folder's first in what may change numbers: code, versions, devices.

  Raises:
    InputError: the folder cannot be written, is damaged, or was made with another config or other data.
    StorageError: the disk is full or fails.
  """
  path = workdir / "config.json"
  if path.exists():
    found = config_lib.differences(provenance.read_json(path), dict(config))
    if found:
      raise InputError(
        f"{workdir} was made with another config: {config_lib.first_few(found)}. "
        "Go back to that config, or give another --workdir"
      )
  known = _known_data(workdir / "data.json")
  _same_data(known, data or {}, workdir)
  if not is_first_process() or (path.exists() and data is None):
    return []
  try:
    changed = provenance.add_session(workdir / "env.json", provenance.environment(command, asked))
    write_atomically(workdir / "data.json", stored.text({**known, **(data or {})}))
    if not path.exists():
      write_atomically(path, stored.text(config))
  except OSError as error:
    raise cannot_write(workdir, error, instead="give another --workdir") from error
  return changed


def fingerprints(studies: Iterable[Any], runtime: Runtime) -> dict[str, Any]:
  """What every source of the studies holds: spec -> name, number of examples, fingerprint of all of them, and
  the version of the order in which they are drawn."""
  sources = {
    json.dumps(config_lib.plain(data.source), sort_keys=True): data
    for study in studies
    for _, data in all_data(study)
  }
  opened = {name: runtime.open(data) for name, data in sources.items()}
  return {
    name: {
      "name": source.name,
      "num_examples": len(source),
      "fingerprint": source.fingerprint(),
      "order": data_lib.ORDER_VERSION,
    }
    for name, source in runtime.moving(opened.items())
  }


def _known_data(path: Path) -> dict[str, Any]:
  """What the sources held in the sessions before; nothing where there was none."""
  known = provenance.read_json(path) if path.exists() else {}
  for name, found in known.items():
    if not isinstance(found, dict) or not {"name", "num_examples", "fingerprint"} <= set(found):
      raise InputError(
        f"{path} is damaged ({name[:80]!r} has no fingerprint); restore it, or give another --workdir"
      )
  return known


def _same_data(known: Mapping[str, Any], found: Mapping[str, Any], workdir: Path) -> None:
  for name, now in found.items():
    # Folders without a version have the first.
    old = {"order": 1, **known.get(name, now)}
    if old["order"] != now["order"]:
      raise InputError(
        f"{workdir} was made with version {old['order']} of the order of the data, and this jaxtl has "
        f"version {now['order']}: its results would not be those of one run. Give another --workdir"
      )
    if old != now:
      raise InputError(
        f"{now['name']} has changed since {workdir} was made: {old['num_examples']} examples with the "
        f"fingerprint {old['fingerprint']}, and now {now['num_examples']} with {now['fingerprint']}. "
        "Bring the old data back, or give another --workdir"
      )


def read_rows(path: Path) -> list[dict[str, Any]]:
  """The rows of one cell.

  Raises:
    InputError: the file is damaged.
  """
  try:
    found = stored.read_lines(path)
    if not all(isinstance(row.get("arm"), str) and isinstance(row.get("seed"), int) for row in found):
      raise ValueError("a row without arm and seed")
    return found
  except ValueError as error:
    raise InputError(f"{path} is damaged ({error}); jaxtl run measures its cell again") from error


def all_rows(workdir: Path) -> list[dict[str, Any]]:
  """The rows of all finished cells, in the order of the config's arms and seeds.

  Raises:
    InputError: no study ran in `workdir`.
  """
  if not (workdir / "config.json").is_file():
    raise InputError(f"no study in {workdir}: there is no config.json; give the --workdir of a run")
  config = provenance.read_json(workdir / "config.json")
  arms, seeds = config.get("arms"), config.get("seeds", [])
  if not isinstance(arms, dict) or not isinstance(seeds, list) or not {*map(type, seeds)} <= {int}:
    raise InputError(f"{workdir / 'config.json'} has no arms and seeds; give the --workdir of a run")
  config_lib.check_names(config["arms"], at=f"{workdir / 'config.json'}: arms")
  files = [
    workdir / arm / str(seed) / "rows.jsonl" for arm in config["arms"] for seed in config.get("seeds", [0])
  ]
  return [row for file in files if file.exists() for row in read_rows(file)]


def hook(rows: Rows, name: str) -> Callable[[Any, Runtime], Any] | None:
  """The function (study, runtime) of that name beside the study's `rows`, if its module has one."""
  return getattr(sys.modules[rows.__module__], name, None)


def _expect(rows: Rows, cells: Sequence[Cell], runtime: Runtime) -> None:
  """Tells the progress line how much is to be done, where the study knows."""
  if work := hook(rows, "work"):
    for cell in cells:
      runtime.progress.expect(work(cell.study, runtime))
  if work_once := hook(rows, "work_once"):
    for study in {cell.arm: cell.study for cell in cells}.values():
      runtime.progress.expect(work_once(study, runtime))


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
