"""Transfers pre-trained weights to other data sets, by linear probe and by fine-tuning."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl import optim, tree
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import NonFiniteError
from jaxtl.host import processes
from jaxtl.host.processes import is_first_process
from jaxtl.host.progress import title
from jaxtl.host.remember import remember
from jaxtl.host.stopwatch import Stopwatch
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.studies.transfer import preprocessing
from jaxtl.studies.transfer.curves import curve_rows, diagnosis
from jaxtl.studies.transfer.fine_tuning import filled_protocols, fine_tuning
from jaxtl.studies.transfer.interpolation import interpolated_row
from jaxtl.studies.transfer.plan import plan
from jaxtl.studies.transfer.probes import OnTarget, few_shot_name, few_shot_row, probe_row
from jaxtl.studies.transfer.settings import FineTune, Protocols, Transfer
from jaxtl.train.experiment import image_passes, with_rate
from jaxtl.train.image_size import at_size
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import Trained, run
from jaxtl.types import Row, TrainState

# In the file of a fine-tuning's row, the rows that follow it.
FURTHER = "further"

# The runner looks up `plan` next to `rows`; other studies use `measure`.
__all__ = ["measure", "plan", "rows"]


def rows(study: Transfer, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields one row per target and protocol."""
  start = checkpoint.load(study.start)
  model = start.model_spec(trust=runtime.trust)
  folder = workdir / "transfer"
  yield from measure(study.transfer, model, start, seed=seed, workdir=folder, runtime=runtime)


def measure(
  protocols: Protocols, model: Spec, start: Weights, *, seed: int, workdir: Path, runtime: Runtime
) -> Iterator[Row]:
  """Yields the rows of `start` on every target; finished ones are read back from `workdir`.

  The folder `workdir/<target>/` contains the row of each protocol, and the run of the fine-tuning in
  `fine_tune/`, with checkpoints, `metrics.jsonl`, `curve.csv` and `classes.json`. Targets without transforms
  use those of the checkpoint. One note names the targets that normalise differently.
  """
  _note_normalization(protocols, start, runtime)
  protocols = filled_protocols(protocols, start, runtime)
  for name, target in protocols.targets.items():
    folder = workdir / name
    here = OnTarget(
      name=name,
      target=target,
      model=model,
      start=start,
      probe=protocols.linear_probe or LinearProbe(),
      seed=seed,
      runtime=runtime,
    )
    if protocols.linear_probe is not None:
      runtime.progress.title = f"{title(workdir)} | probe {name}"
      yield remember(
        folder / "linear_probe.json", functools.partial(probe_row, here), note=runtime.progress.note
      )
    if protocols.few_shot is not None:
      runtime.progress.title = f"{title(workdir)} | few shots of {name}"
      for shots in protocols.few_shot.shots:
        compute = functools.partial(few_shot_row, here, protocols.few_shot, shots)
        yield remember(folder / f"{few_shot_name(shots)}.json", compute, note=runtime.progress.note)
    if protocols.fine_tune is not None:
      fine_tune = protocols.fine_tune
      runtime.progress.title = f"{title(workdir)} | fine-tune {name}"
      compute = functools.partial(_fine_tune_row, here, fine_tune, folder / "fine_tune")
      with runtime.progress.counting(_passes(here, fine_tune) * (len(fine_tune.peak_rates) or 1)):
        row = remember(folder / "fine_tune.json", compute, note=runtime.progress.note)
      further = row.pop(FURTHER, [])
      yield row
      yield from further
      if fine_tune.keep == 0 and is_first_process():
        for kept in (checkpoint.FOLDER, checkpoint.SELECTED):
          shutil.rmtree(folder / "fine_tune" / kept, ignore_errors=True)


def _note_normalization(protocols: Protocols, start: Weights, runtime: Runtime) -> None:
  others = [
    name
    for name, target in protocols.targets.items()
    if any(preprocessing.differs(data, start) for data in (target.train, target.test))
  ]
  if others:
    runtime.progress.note(
      f"{', '.join(others)}: normalised differently from the images of {start.path}, which had the mean "
      f"{preprocessing.normalization_text(start)}; leave out the transforms to take the checkpoint's"
    )


def _passes(here: OnTarget, fine_tune: FineTune) -> float:
  """Returns the image passes of one training."""
  num_train = len(here.runtime.open(here.target.train))
  return image_passes(fine_tuning(fine_tune, here.target, here.model, num_train), num_train)


def _fine_tune_row(here: OnTarget, fine_tune: FineTune, workdir: Path) -> Row:
  target, runtime = here.target, here.runtime
  tried: dict[str, float | None] = {}
  earlier = 0.0  # The probe's row has the seconds of its fit.
  if fine_tune.peak_rates:
    rate, tried, earlier = _choose_rate(here, fine_tune, workdir)
    fine_tune = dataclasses.replace(fine_tune, optimizer=with_rate(fine_tune.optimizer, rate))
  stopwatch = Stopwatch(workdir.with_name(f"{workdir.name}_seconds.json"))
  trained = _tune(here, fine_tune, workdir, stopwatch)
  chosen = (
    {}
    if target.validation is None
    else {
      "validation_accuracy": trained.last("eval/validation/top1"),
      "validation_loss": trained.last("eval/validation/cross_entropy"),
      "num_validation": len(runtime.open(target.validation)),
    }
  )
  if fine_tune.select is not None:
    chosen |= {"selected_step": int(trained.last("step"))}
  about, further = _further(here, fine_tune, trained, workdir)
  return {
    "kind": "transfer",
    "target": here.name,
    "protocol": "fine_tune",
    "accuracy": trained.last("eval/test/top1"),
    "best_accuracy": trained.best("eval/test/top1"),
    "num_evaluations": sum("eval/test/top1" in record for record in trained.history),
    "loss": trained.last("eval/test/cross_entropy"),
    "least_loss": trained.least("eval/test/cross_entropy"),
    "train_loss": trained.last("train/loss"),
    "head": fine_tune.head,
    "peak_rate": fine_tune.optimizer.keywords.get("peak_rate"),
    **({"tried": tried} if tried else {}),
    **chosen,
    "num_train": len(runtime.open(target.train)),
    "num_test": len(runtime.open(target.test)),
    "num_classes": len(trained.weights.classes),
    "classes": list(trained.weights.classes),
    "steps": trained.total_steps,
    **about,
    "seconds": earlier + stopwatch.seconds,
    **({FURTHER: further} if further else {}),
  }


def _further(here: OnTarget, fine_tune: FineTune, trained: Trained, workdir: Path) -> tuple[Row, list[Row]]:
  """Returns what the row says beyond the result, and the rows that follow it."""
  about: Row = {}
  further: list[Row] = []
  if fine_tune.adapter is not None or optim.trained_paths(trained.program.gradient, trained.program.model):
    about |= _trained_parameters(trained)
  if fine_tune.curve is not None:
    still = dataclasses.replace(fine_tune, epochs=0.0, steps=None, select=None)
    before = _trained(here, still, None)
    further += curve_rows(here, before, trained)
    about |= diagnosis(here, fine_tune, further, trained, workdir)
  if fine_tune.interpolate:
    further.append(interpolated_row(here, fine_tune, trained))
  return about, further


def _trained_parameters(trained: Trained) -> Row:
  """Returns the number of parameters that the gradient rule moves, and that of all."""
  params, program = trained.weights.params, trained.program
  part = optim.trained_paths(program.gradient, program.model)
  return {
    "num_trained": tree.size(params if part is None else tree.select(params, part)),
    "num_parameters": tree.size(params),
  }


def _choose_rate(
  here: OnTarget, fine_tune: FineTune, workdir: Path
) -> tuple[float, dict[str, float | None], float]:
  """Fine-tunes with every rate; the best run becomes the fine-tuning in `workdir`.

  Returns:
    The rate; rate -> cross-entropy on the validation images, None where the training diverged; and the
    seconds that all rates took, in whichever session.

  Raises:
    NonFiniteError: every rate diverges.
  """
  folder = workdir.with_name(f"{workdir.name}_rates")
  losses: dict[float, float] = {}
  seconds = 0.0
  for rate in fine_tune.peak_rates:
    at_rate = dataclasses.replace(fine_tune, optimizer=with_rate(fine_tune.optimizer, rate))
    compute = functools.partial(_validation_row, here, at_rate, folder / f"{rate!r}")
    with here.runtime.progress.counting(_passes(here, at_rate)):
      row = remember(folder / f"{rate!r}.json", compute, note=here.runtime.progress.note)
    seconds += row.get("seconds", 0.0)
    if row["loss"] is not None:
      losses[rate] = row["loss"]
  if not losses:
    rates = ", ".join(f"{rate:g}" for rate in fine_tune.peak_rates)
    raise NonFiniteError(f"the fine-tuning on {here.name} diverges at every rate ({rates}); try lower ones")
  best = min(losses, key=lambda rate: losses[rate])
  processes.from_first(lambda: _move(folder / f"{best!r}", workdir))
  return best, {f"{rate!r}": losses.get(rate) for rate in fine_tune.peak_rates}, seconds


def _move(chosen: Path, workdir: Path) -> None:
  """Renames the chosen run, unless that is done, and removes the weights of the others.

  If someone has removed it, `workdir` stays absent, and it is trained again.
  """
  if chosen.exists() and not workdir.exists():
    chosen.rename(workdir)
  for other in chosen.parent.iterdir():
    if other.is_dir():
      shutil.rmtree(other)


def _validation_row(here: OnTarget, fine_tune: FineTune, workdir: Path) -> Row:
  stopwatch = Stopwatch(workdir / "seconds.json")
  loss = math.nan
  try:
    loss = _tune(here, fine_tune, workdir, stopwatch).last("eval/validation/cross_entropy")
  except NonFiniteError as error:
    here.runtime.progress.note(f"a rate of {fine_tune.optimizer.keywords['peak_rate']:g} diverges: {error}")
  found = loss if math.isfinite(loss) else None
  return {"kind": "rate", "loss": found, "seconds": stopwatch.seconds}


def _tune(here: OnTarget, fine_tune: FineTune, workdir: Path, stopwatch: Stopwatch) -> Trained:
  """Fine-tunes in a folder, or reads the result of an earlier fine-tuning there.

  The seconds are stored with every checkpoint, so that those of steps that a killed session loses are not
  counted twice.
  """

  def store(_: TrainState) -> dict[str, float]:
    stopwatch.store()
    return {}

  try:
    observers = {"seconds": (fine_tune.checkpoint_every, lambda _: store)}
    return _trained(here, fine_tune, workdir, observers=observers)
  finally:
    stopwatch.store()  # also of a session that was asked to stop


def _trained(here: OnTarget, fine_tune: FineTune, workdir: Path | None, **options: Any) -> Trained:
  """Fine-tunes in a folder; None keeps all in memory."""
  target, runtime = here.target, here.runtime
  size, num_train = runtime.image_shape(target.train)[0], len(runtime.open(target.train))
  fresh = fine_tune.head == "fresh"
  start = here.start if fresh else here.start_at_probe()
  return run(
    fine_tuning(fine_tune, target, at_size(here.model, size), num_train),
    seed=here.seed,
    runtime=runtime,
    workdir=workdir,
    start=None if fine_tune.from_scratch else start,
    fresh_head=fresh,
    cache=fine_tune.cache,
    restart_if_damaged=True,
    **options,
  )
