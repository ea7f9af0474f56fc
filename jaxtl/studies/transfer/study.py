"""Transfers pre-trained weights to other data sets, by linear probe and by fine-tuning."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.host.processes import is_first_process
from jaxtl.host.progress import title
from jaxtl.host.remember import remember
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.studies.transfer import preprocessing
from jaxtl.studies.transfer.fine_tuning import filled_protocols, fine_tuning
from jaxtl.studies.transfer.plan import plan
from jaxtl.studies.transfer.probes import OnTarget, few_shot_name, few_shot_row, probe_row
from jaxtl.studies.transfer.settings import FineTune, Protocols, Transfer
from jaxtl.train.experiment import image_passes
from jaxtl.train.image_size import at_size
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import run
from jaxtl.types import Row

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
      num_train = len(runtime.open(target.train))
      passes = image_passes(fine_tuning(fine_tune, target, model, num_train), num_train)
      runtime.progress.title = f"{title(workdir)} | fine-tune {name}"
      yield remember(
        folder / "fine_tune.json",
        functools.partial(_fine_tune_row, here, fine_tune, folder / "fine_tune"),
        recalled=functools.partial(runtime.progress.skip, passes),
        note=runtime.progress.note,
      )
      if fine_tune.keep == 0 and is_first_process():
        shutil.rmtree(folder / "fine_tune" / checkpoint.FOLDER, ignore_errors=True)


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


def _fine_tune_row(here: OnTarget, fine_tune: FineTune, workdir: Path) -> Row:
  target, runtime = here.target, here.runtime
  size, num_train = runtime.image_shape(target.train)[0], len(runtime.open(target.train))
  tuned = fine_tuning(fine_tune, target, at_size(here.model, size), num_train)
  fresh = fine_tune.head == "fresh"
  start = here.start if fresh else here.start_at_probe()
  began = time.monotonic()  # The probe's row has the seconds of its fit.
  trained = run(
    tuned,
    seed=here.seed,
    runtime=runtime,
    workdir=workdir,
    start=start,
    fresh_head=fresh,
    restart_if_damaged=True,
  )
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
    "num_train": num_train,
    "num_test": len(runtime.open(target.test)),
    "num_classes": len(trained.weights.classes),
    "classes": list(trained.weights.classes),
    "steps": trained.total_steps,
    "seconds": time.monotonic() - began,
  }
