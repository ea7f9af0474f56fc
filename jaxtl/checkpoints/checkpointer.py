"""The checkpoints of a run, with guarantees that orbax does not give.

A step's folder gets its name when it is complete: arrays, config and, last, the manifest with the SHA-256 of
everything (`checkpoints.manifest`). A restore returns bit for bit what was saved, or refuses and names the
file. Saving runs in parallel with training. A full disk delays a checkpoint without stopping the training.
"""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxtl import errors
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints import manifest as manifest_lib
from jaxtl.errors import CheckpointError, DamagedError, StorageError
from jaxtl.host import processes
from jaxtl.host.files import DAMAGED, existing, put_aside, size_text
from jaxtl.host.processes import is_first_process
from jaxtl.optim import averaged
from jaxtl.types import Params, TrainState

# Suffixes of a step's folder before it is complete, and while it is being removed.
WRITING, REMOVING = ".writing", ".removing"
# Pauses between the attempts of a run's last save, in seconds; no attempt lasts beyond LONGEST. A run that
# was asked to end must give up, and say why, within its grace period (`interruption.GRACE`).
PATIENCE, LONGEST = (1.0, 5.0, 10.0), 20.0
# Consecutive failed saves, not counting those for a full disk, after which the run gives up.
MOST_FAILURES = 3
_NO_SPACE = ("no space left", "quota exceeded", "not enough space")


class Checkpointer:
  """The checkpoints of one run, which is the only writer of their folder.

  Args:
    folder: created on the first write.
    keep: how many of the newest steps are retained; 2 leaves a fallback if the newest is damaged.
    note: reports events to the user.
    patience: seconds between the attempts of the last save.
    restart_if_damaged: if the folder has steps but all are damaged, reports that and acts as if there were
      none.
    until: later steps are removed, because the run will compute them again; None keeps all.

  Raises:
    StorageError: the folder has steps and all are damaged, without `restart_if_damaged`; or it cannot be
      read.
    CheckpointError: the manifest of its newest step has another format.
  """

  def __init__(
    self,
    folder: Path,
    *,
    keep: int = 2,
    note: Callable[[str], None] = print,
    patience: Sequence[float] = PATIENCE,
    restart_if_damaged: bool = False,
    until: int | None = None,
  ):
    self._folder = folder.absolute()
    self._until = until
    self._keep = keep
    self._note = note
    self._patience = patience
    self._restart_if_damaged = restart_if_damaged
    self._writer = checkpoint.writer()
    self._thread: threading.Thread | None = None
    self._problem: Exception | None = None
    self._failures = 0
    self._pending = False
    # The array files of the newest step are checked when it is restored or requested.
    self._sure = jax.process_count() > 1
    self._newest: int | None = processes.from_first(self._find)
    self._sure = self._sure or self._newest is None

  def latest_step(self) -> int | None:
    """Returns the newest step that is complete and undamaged, or None."""
    if not self._sure:
      self._newest = newest_whole(self._folder, self._note, restart_if_damaged=self._restart_if_damaged)
      self._sure = True
    return self._newest

  def has_steps(self) -> bool:
    """Returns whether there is a step to restore.

    `restore` checks its arrays, and falls back to an older step if they are damaged.
    """
    return self._newest is not None

  def check_space(self, like: TrainState, *, copies: int = 0) -> None:
    """Refuses a disk that cannot hold what the run will store.

    Args:
      like: a state with the shapes of those to come.
      copies: how many copies of the weights to use the run stores elsewhere on the same disk.

    Raises:
      StorageError: says how much space is needed and how much is free.
    """
    processes.from_first(lambda: self._check_space(_items(like), copies))

  def _check_space(self, items: Mapping[str, Any], copies: int) -> None:
    one, weights = _num_bytes(items), _num_bytes(items["model"])
    have = shutil.disk_usage(existing(self._folder)).free
    if (need := one * (self._keep + 1) + weights * copies) > have:
      also = f", and {copies} copies of selected weights of {size_text(weights)}" if copies else ""
      raise StorageError(
        f"{self._folder} needs {size_text(need)} for {self._keep} checkpoints of {size_text(one)} and "
        f"one that is being written{also}; {size_text(have)} are free. Free space, lower 'keep', or give "
        "another --workdir"
      )

  def save(
    self,
    state: TrainState,
    config: Mapping[str, Any],
    *,
    last: bool = False,
    statistics: Params | None = None,
  ) -> None:
    """Writes the state as its step in the background; an existing step is left alone.

    A save that fails is reported and retried with the next one. The last save waits until it is on disk, or
    for `LONGEST`.

    Args:
      state: the state to resume from.
      config: JSON data.
      last: whether this is the last save of the run.
      statistics: batch statistics of the weights to use, if these are an average; None takes the state's own.

    Raises:
      StorageError: the last save failed, or `MOST_FAILURES` saves in a row failed for reasons other than a
        full disk.
    """
    began = time.monotonic()
    self.wait()
    step = int(state.step)
    if self.latest_step() == step:
      return
    # A copy, because the next step writes into the memory of the state.
    items = jax.tree.map(lambda x: np.array(x) if manifest_lib.is_whole(x) else x, _items(state, statistics))
    started = time.monotonic()
    self._start(step, items, config)
    for pause in (*self._patience, None) if last else ():
      self.wait()
      if self._newest == step:
        return
      if pause is None or not _time_left(began, pause, time.monotonic() - started):
        raise StorageError(
          f"the last checkpoint, of step {step}, cannot be written: {errors.essence(self._problem)}"
        )
      time.sleep(pause)
      started = time.monotonic()
      self._start(step, items, config)

  def retain(self, steps: Iterable[int]) -> None:
    """Removes all steps but these; a step that cannot be removed stays, with a note."""
    self.wait()
    needed = set(steps)
    if is_first_process():
      self._remove([step for step in checkpoint.steps_in(self._folder) if step not in needed])

  def wait(self) -> None:
    """Waits until the current save has succeeded or failed.

    Raises:
      StorageError: `MOST_FAILURES` saves have failed for reasons other than a full disk.
    """
    self._join()
    if self._pending:  # equal on all processes, even on one whose own part did not start
      self._pending = False
      self._agree()
    if self._failures >= MOST_FAILURES:
      why = errors.essence(self._problem)
      raise StorageError(f"{self._failures} checkpoints in a row cannot be written to {self._folder}: {why}")

  def restore(self, like: TrainState) -> TrainState:
    """Returns the newest undamaged state, placed like `like`, with every array checked against its digest.

    Returns `like` itself if every step turns out to be damaged and `restart_if_damaged` is set.

    Raises:
      CheckpointError: the step does not have the structure and shapes of `like`; lists the differences.
      StorageError: all steps are damaged, or one cannot be read.
    """
    while True:
      read = self._newest
      if read is None:
        return like
      try:
        state = self._restored(like)
      except (DamagedError, StorageError):
        # The files show whether the step is damaged; a damaged step makes way for an older one.
        if self._sure or self.latest_step() == read:
          raise
      else:
        self._sure = True
        return state

  def _restored(self, like: TrainState) -> TrainState:
    folder = self._folder / str(self._newest)
    saved = manifest_lib.read(folder)
    items = jax.tree.map(ocp.utils.to_shape_dtype_struct, _items(like))
    if not any(path.startswith("optimizer/batch_stats/") for path in saved.leaves):
      items["optimizer"].pop("batch_stats", None)  # older versions saved the weights' own as the average's
    found = manifest_lib.misfits(saved.leaves, manifest_lib.shapes_of(items))
    if found:
      raise CheckpointError(f"{folder} does not fit this run: {'; '.join(found[:10])}{_more(found, 10)}")
    arguments = {
      name: ocp.args.PyTreeRestore(item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))
      for name, tree in items.items()
    }
    try:
      restored = self._writer.restore(folder, args=ocp.args.Composite(**arguments))
    except Exception as error:  # orbax raises what its readers raise
      raise StorageError(f"{folder} cannot be restored: {errors.essence(error)}") from error
    restored = {name: restored[name] for name in items}
    manifest_lib.verify_leaves(saved, restored, at=str(folder))
    return TrainState(**{**restored["model"], **restored["optimizer"]})

  def config(self) -> dict[str, Any]:
    """Returns the config item of the newest step.

    Raises:
      StorageError: it cannot be read.
    """
    folder = self._folder / str(self._newest)
    try:
      return checkpoint.read_config(folder)
    except Exception as error:  # as in `restore`
      raise StorageError(f"{folder} cannot be restored: {errors.essence(error)}") from error

  def close(self) -> None:
    """Waits for the current save; a failure has already been reported."""
    self._join()
    self._writer.close()

  def _join(self) -> None:
    if self._thread is not None:
      self._thread.join()
      self._thread = None

  def _find(self) -> int | None:
    """Cleans up the folder and returns the newest undamaged step."""
    manifest_lib.patiently(lambda: _clean(self._folder), self._folder)
    if (until := self._until) is not None:
      self._remove([step for step in checkpoint.steps_in(self._folder) if step > until])
    return newest_whole(
      self._folder, self._note, but_arrays=not self._sure, restart_if_damaged=self._restart_if_damaged
    )

  def _agree(self) -> None:
    """Adopts process 0's result of a save, because only its disk counts."""
    if jax.process_count() == 1:
      return
    problem = self._problem and errors.essence(self._problem)
    said = processes.from_first(lambda: [self._newest, self._failures, problem])
    self._newest, self._failures, problem = said
    self._problem = StorageError(problem) if problem else None

  def _start(self, step: int, items: Any, config: Mapping[str, Any]) -> None:
    folder = self._folder / f"{step}{WRITING}"
    self._pending = True
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      self._writer.save(folder, args=checkpoint.save_arguments(items, {**config, "step": step}))
    except Exception as error:  # orbax raises what its writers raise
      self._failed(step, error)
      return
    self._thread = threading.Thread(target=self._finish, args=(step, items, folder), name="checkpoint")
    self._thread.start()

  def _finish(self, step: int, items: Any, folder: Path) -> None:
    try:
      leaves = manifest_lib.leaves_of(items)
      self._writer.wait_until_finished()
      if is_first_process():
        manifest_lib.write(folder, step, leaves)
        self._make_way(self._folder / str(step))
        folder.rename(self._folder / str(step))
    except Exception as error:
      self._failed(step, error)
    else:
      self._newest, self._problem, self._failures = step, None, 0
      self._prune()

  def _make_way(self, path: Path) -> None:
    """Renames an existing folder with the name of this step that this run has not written."""
    if path.exists():
      aside = put_aside(path)
      self._note(f"{path} exists and does not belong to this run; renamed to {aside.name}")

  def _failed(self, step: int, error: Exception) -> None:
    self._problem = error
    full = any(words in str(error).lower() for words in _NO_SPACE)
    self._failures += not full
    self._writer = checkpoint.writer()  # a writer that failed keeps its error
    if is_first_process():
      _clean(self._folder)
    what = "the disk is full" if full else errors.essence(error)
    self._note(f"the checkpoint of step {step} was not written: {what}; the next save retries")

  def _prune(self) -> None:
    if not is_first_process():
      return
    # A folder with a later number is not from this run, and must not displace one of its steps.
    own = [number for number in checkpoint.steps_in(self._folder) if number <= (self._newest or 0)]
    self._remove(sorted(own)[: -self._keep])

  def _remove(self, steps: Sequence[int]) -> None:
    try:
      for step in steps:
        _remove(self._folder / str(step))
    except OSError as error:  # surplus steps stay; the new step itself is saved
      self._note(f"an old checkpoint cannot be removed: {error}")


def newest_whole(
  folder: Path, note: Callable[[str], None], *, but_arrays: bool = False, restart_if_damaged: bool = False
) -> int | None:
  """Returns the newest step whose files match what was saved.

  Newer damaged steps are renamed, never deleted.

  Args:
    folder: the folder of a run's checkpoints.
    note: receives a line for each damaged step, with the file.
    but_arrays: as for `manifest.verify_files`.
    restart_if_damaged: if all steps are damaged, reports that and returns None.

  Raises:
    StorageError: all steps are damaged, without `restart_if_damaged`, because a run must not restart
      silently; or a step cannot be read, so that its condition is unknown.
    CheckpointError: a manifest has another format.
  """
  steps = sorted(manifest_lib.patiently(lambda: checkpoint.steps_in(folder), folder), reverse=True)
  for step, older in itertools.zip_longest(steps, steps[1:]):
    path = folder / str(step)
    try:
      manifest_lib.verify_files(path, but_arrays=but_arrays)
      return step
    except DamagedError as error:
      aside = put_aside(path)
      then = "there is no older step" if older is None else f"trying step {older} next"
      note(f"checkpoint damaged: {error}. Renamed to {aside.name}; {then}")
  if damaged := len(list(folder.glob(f"*{DAMAGED}*"))):
    found = f"{folder} has no intact step, and {damaged} damaged"
    if not restart_if_damaged:
      raise StorageError(f"{found}; restore one, or give another --workdir to start over")
    note(f"{found}; this training starts over")
  return None


def _time_left(began: float, pause: float, took: float) -> bool:
  """Returns whether an attempt after `pause` that takes as long as the last one ends in time.

  Process 0 decides.
  """
  return processes.from_first(lambda: time.monotonic() - began + pause + took <= LONGEST)


def _items(state: TrainState, statistics: Params | None = None) -> dict[str, Any]:
  """Splits the state into items: `model` holds the weights to use.

  If those are an average, `optimizer` holds the weights that are trained.
  """
  used = averaged(state.opt_state, state.params)
  optimizer = {"step": state.step, "opt_state": state.opt_state, "memory": state.memory}
  stats = state.batch_stats
  if used is not state.params:
    optimizer["params"] = state.params
    if jax.tree.leaves(stats):
      optimizer["batch_stats"], stats = stats, stats if statistics is None else statistics
  return {"model": {"params": used, "batch_stats": stats}, "optimizer": optimizer}


def _num_bytes(items: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(items))


def _clean(folder: Path) -> None:
  """Removes unfinished folders of a run that was killed."""
  if folder.is_dir():
    for pattern in (f"*{WRITING}*", f"*{REMOVING}"):
      for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
  """Renames the folder before removing it, so that a half-removed step is never taken for a complete one."""
  leaving = path.with_name(f"{path.name}{REMOVING}")
  path.rename(leaving)
  shutil.rmtree(leaving, ignore_errors=True)


def _more(items: Sequence[Any], shown: int) -> str:
  return f"; and {len(items) - shown} more" if len(items) > shown else ""
