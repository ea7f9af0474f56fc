"""Patching: fine-tune on a new task, and go as far towards the result as old and new tasks gain together.

Ilharco et al., "Patching open-vocabulary models by interpolating weights", 2022, arXiv 2208.05592, with the
coefficient found by a polynomial fit of normalised losses, and compared with the exhaustive grids in use.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from jaxtl.host.remember import remember
from jaxtl.runner.plan import Extent, Training
from jaxtl.studies.patching import cost, merging, plan
from jaxtl.studies.patching.fine_tuning import FineTunedTasks, fine_tuning
from jaxtl.studies.patching.pairs import pair_row
from jaxtl.studies.patching.plan import check_data, head_of, one_size, rehearse
from jaxtl.studies.patching.settings import Patching
from jaxtl.train import experiment
from jaxtl.train.image_size import at_size
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

# What the runner looks for beside `rows`.
__all__ = ["check_data", "extent", "rehearse", "rows", "work"]


def rows(study: Patching, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """One row for every pair of a supported and a patching task, then one for every way to merge them all."""
  bench = FineTunedTasks.of(study, runtime, side=one_size(study, runtime), seed=seed, workdir=workdir)
  for patch in study.patching:
    for supported in study.supported:
      runtime.progress.title = f"{bench.title} | {supported} x {patch}"
      passes = cost.pair(study, runtime, supported, patch)
      row = remember(
        workdir / "pairs" / f"{supported}.{patch}.json",
        functools.partial(pair_row, bench, supported, patch, passes),
        recalled=functools.partial(runtime.progress.skip, passes),
        note=runtime.progress.note,
      )
      runtime.progress.note(f"{supported} x {patch}: alpha {row['optimised/alpha']:.3f}")
      yield row
    bench.pass_over(patch, cost.tuning(study, runtime, patch))
    bench.forget()
  if study.merging is not None:
    yield from merging.rows(bench, study.merging)


def extent(study: Patching, runtime: Runtime) -> Extent:
  """The pairs, the images of every task, and the fine-tuning on every patching task."""
  found = Extent()
  start = found.start(study.start, trust=runtime.trust)
  pairs = len(study.supported) * len(study.patching)
  found.lines.append(("pairs", f"{pairs} = {len(study.supported)} supported x {len(study.patching)} patched"))
  for name, task in study.tasks.items():
    parts = {part: getattr(task, part) for part in ("train", "validation", "test")}
    sizes = [f"{found.images(data, runtime)} {part}" for part, data in parts.items() if data is not None]
    found.lines.append(("images", f"{', '.join(sizes)}: {name}"))
    plan.head_in_extent(found, study, name, start, runtime)
  for patch, task in study.patching.items():
    assert task.train is not None  # the study has checked it
    known = found.facts(task.train, runtime)
    if start is None or known is None:
      tuned = fine_tuning(study, patch, experiment.PLAIN, "head")
    else:
      sized = at_size(start.model_spec(trust=runtime.trust), known.image_size)
      tuned = fine_tuning(study, patch, sized, head_of(sized))
    found.trainings[patch] = Training(tuned, known, has_model=start is not None)
  return found


def work(study: Patching, runtime: Runtime) -> float:
  """Image passes of fine-tuning, sweeps and merges, for the time left."""
  return cost.whole(study, runtime)
