"""Finds the layer that overfits, and compares post-training that repairs only this layer with its controls.

Diagnosis and PoL are those of Terauchi, Sato, Kawakami, "Model diagnosis for better generalisation" (in
Japanese). PoF is that of Sato et al., "PoF: Post-Training of Feature Extractor for Improving Generalization",
2022, arXiv 2207.01847. A change of temperature can lower the test loss a lot without lowering the error.
Every method is therefore also measured with its own temperature, fitted on the validation images (Guo et al.,
"On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from jaxtl import train
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.host.progress import title
from jaxtl.host.remember import remember
from jaxtl.measure import layer_diagnosis as diagnosis_lib
from jaxtl.studies.layers.methods import Methods
from jaxtl.studies.layers.plan import diagnosis_work, method_passes, plan
from jaxtl.studies.layers.settings import BASE, Layers
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

# The runner looks up `plan` next to `rows`.
__all__ = ["plan", "rows"]


def rows(study: Layers, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields the rows of the diagnosis, then one row for the base network and one per method.

  A method whose layers the diagnosis does not find has a row of the kind not_run, which gives the reason.
  """
  runtime.progress.title = f"{title(workdir)} | base"
  base = _base(study, seed, workdir, runtime)
  scene = Methods(study, base, runtime, seed, workdir)
  found: list[Row] = []
  if study.diagnosis is not None:
    runtime.progress.title = f"{title(workdir)} | diagnosis"
    found = scene.diagnosed()
    runtime.progress.skip(diagnosis_work(study.diagnosis))
    yield from found
  note = runtime.progress.note
  yield remember(workdir / "methods" / f"{BASE}.json", lambda: scene.report(BASE, base), note=note)
  chosen = diagnosis_lib.chosen(found) if found else (None, None)
  for name in study.methods:
    runtime.progress.title = f"{title(workdir)} | {name}"
    left_out = functools.partial(runtime.progress.skip, method_passes(study, name, runtime))
    if missing := scene.missing(name, chosen):
      left_out()
      runtime.progress.note(f"{name} is not run: {missing}")
      yield {"kind": "not_run", "method": name, "reason": missing}
      continue
    compute = functools.partial(scene.go_on, name)
    yield remember(workdir / "methods" / f"{name}.json", compute, recalled=left_out, note=note)


def _base(study: Layers, seed: int, workdir: Path, runtime: Runtime) -> Weights:
  if study.base is None:
    assert study.start is not None  # the study has checked it
    return checkpoint.load(study.start)
  return train.run(study.base, seed=seed, runtime=runtime, workdir=workdir / BASE).weights
