"""Fine-tunes on a new task, and interpolates to the point that is best for old and new tasks together.

The method is that of Ilharco et al., "Patching open-vocabulary models by interpolating weights", 2022, arXiv
2208.05592. Here a polynomial fit of normalised losses finds the coefficient, which is compared with the
exhaustive grids in use.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from jaxtl.host.remember import remember
from jaxtl.studies.patching import cost, merging
from jaxtl.studies.patching.fine_tuning import FineTunedTasks
from jaxtl.studies.patching.pairs import pair_row
from jaxtl.studies.patching.plan import one_size, plan
from jaxtl.studies.patching.settings import Patching
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

# The runner looks up `plan` next to `rows`.
__all__ = ["plan", "rows"]


def rows(study: Patching, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields one row per pair of a supported and a patching task, then one per way to merge them all."""
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
