"""Runs arms x seeds of any study, and saves the rows of each finished cell in a file.

A config is a module with `get_config()`:

  study   import path of a generator `rows(study: SomeDataclass, *, seed, workdir, runtime)`
  seeds   the seeds that every arm runs with
  base    the fields of SomeDataclass
  arms    name -> nested difference to `base`
  title, notes  for the report (optional)

The working folder contains `config.json`, `env.json`, `data.json`, `log.txt`, `<arm>/<seed>/` with
`rows.jsonl`, `metrics.jsonl`, `checkpoints/` and `classes.json`, and `report/`.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.errors import InputError, NonFiniteLossError, RunError
from jaxtl.host import processes, sealed_json
from jaxtl.host.files import put_aside, write_atomically
from jaxtl.host.folder_lock import on_record, only_run_in
from jaxtl.host.processes import is_first_process
from jaxtl.runner import provenance
from jaxtl.runner.config_file import Rows, check_chosen, parse_config
from jaxtl.runner.preflight import check_data, expect, rehearse_arm
from jaxtl.runner.rows import Cell, read_rows
from jaxtl.runner.workdir import claim, fingerprints
from jaxtl.train import compiled
from jaxtl.train.runtime import Runtime

# For the line of a finished cell: the last parts of the keys to show, and the keys that distinguish rows.
_MAIN_NUMBERS = ("accuracy", "top1", "lambda_max")
_TELLS_APART = ("kind", "protocol", "method")
_MOST_NUMBERS = 6


def run_study(
  config: Mapping[str, Any],
  *,
  workdir: Path,
  runtime: Runtime,
  arms: Sequence[str] | None = None,
  seeds: Sequence[int] | None = None,
  command: Sequence[str] = (),
) -> list[dict[str, Any]]:
  """Runs the unfinished cells of `arms` and `seeds` (default: all), and returns the rows of all of them."""
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
  plans = {}
  for name, arm in runtime.moving(to_run.items()):
    plans[name] = rehearse_arm(rows, name, arm, runtime)
    compiled.next_arm()
  # This opens the data before the folder is claimed, since only a run that can start may claim it.
  for name, plan in runtime.moving(plans.items()):
    check_data(plan, name, runtime)
    compiled.next_arm()
  expect(plans, collections.Counter(cell.arm for cell in unfinished), runtime)
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
    # This comes before `claim`, which writes some of these files with a digest.
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
      write_atomically(cell.rows_file, sealed_json.lines_text(found))
    runtime.progress.note(f"{cell.arm}/{cell.seed} is done: {summary(found)}")


def _is_finished(cell: Cell) -> bool:
  """Returns whether the rows of a cell exist and are intact."""
  try:
    return cell.rows_file.exists() and read_rows(cell.rows_file) is not None
  except InputError:
    return False


def _files_without_digest(workdir: Path, cells: Sequence[Cell]) -> list[str]:
  """Returns the files of config, data, sessions and rows in a folder that have no digest."""
  own = [workdir / name for name in ("config.json", "data.json", "env.json")]
  return [str(path) for path in (*own, *(cell.rows_file for cell in cells)) if sealed_json.lacks_digest(path)]


def _put_damaged_aside(cells: Sequence[Cell], note: Callable[[str], None]) -> None:
  """Renames damaged files of rows, whose cells are then measured again."""
  for cell in cells:
    if cell.rows_file.exists() and not _is_finished(cell):
      aside = put_aside(cell.rows_file)
      note(f"{cell.rows_file} is damaged. Renamed to {aside.name}; {cell.arm}/{cell.seed} is measured again")


def _all_rows_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
  return processes.from_first(lambda: [row for cell in cells for row in read_rows(cell.rows_file)])


def _rows_of(cell: Cell, rows: Rows, runtime: Runtime) -> Iterator[dict[str, Any]]:
  """Yields the rows of a cell with their arm and seed; an error that stops the run names the cell."""
  try:
    for row in rows(cell.study, seed=cell.seed, workdir=cell.folder, runtime=runtime):
      yield {"arm": cell.arm, "seed": cell.seed, **row}
  except (RunError, NonFiniteLossError) as error:
    raise type(error)(f"{cell.arm}/{cell.seed}: {error}") from error


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
  """Summarises a finished cell in one line: its main numbers, averaged per kind, protocol and method."""
  values: dict[str, list[float]] = {}
  for row in rows:
    what = " ".join(str(row[key]) for key in _TELLS_APART if row.get(key))
    for key, value in row.items():
      if key.rpartition("/")[2] in _MAIN_NUMBERS and isinstance(value, (int, float)):
        values.setdefault(f"{what} {key}".strip(), []).append(value)
  parts = [f"{name} {sum(found) / len(found):.3g}" for name, found in values.items()]
  more = f" and {len(parts) - _MOST_NUMBERS} more numbers" if len(parts) > _MOST_NUMBERS else ""
  return f"{', '.join(parts[:_MOST_NUMBERS])}{more}" if parts else f"{len(rows)} rows"
