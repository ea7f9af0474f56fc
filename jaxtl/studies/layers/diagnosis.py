"""The study that diagnoses the layers of checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl import losses
from jaxtl import weights as weights_lib
from jaxtl.host.remember import remember
from jaxtl.measure import network as networks
from jaxtl.measure.layer_diagnosis import Diagnosis, diagnose
from jaxtl.runner.plan import Images, Plan
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row


@dataclasses.dataclass(frozen=True)
class DiagnosisStudy:
  """The study: one checkpoint per arm.

  Attributes:
    start: the checkpoint, a run's folder or an imported weight.
    diagnosis: the images and the search. Where its data have no transforms, they are the checkpoint's own.
    digest: what the weights must be, as `weights` of a row says; None: any.
  """

  start: str
  diagnosis: Diagnosis
  digest: str | None = None


def rows(study: DiagnosisStudy, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Rows of the kind layer_diagnosis, for the cross-entropy; `seed` draws another subset."""
  images, network = networks.prepared(study.start, study.diagnosis.data, runtime)
  about = networks.about(study.start, network)
  networks.same_weights(workdir, about)
  plan = dataclasses.replace(study.diagnosis, data=images, seed=study.diagnosis.seed + seed)
  runtime.progress.title = "/".join(workdir.parts[-2:])

  def compute() -> dict[str, list[Row]]:
    loss = losses.softmax_cross_entropy
    return {"rows": diagnose(plan, network.model, network.params, network.batch_stats, loss, runtime)}

  for row in remember(workdir / "layers.json", compute, note=runtime.progress.note)["rows"]:
    yield {**row, **about}


def plan(study: DiagnosisStudy, runtime: Runtime) -> Plan:
  """Plans the diagnosis of one checkpoint."""
  data = study.diagnosis.data
  counted = f"{study.diagnosis.num_examples} of {{}}, in batches of {data.batch_size}"
  return Plan(
    starts={"start": study.start},
    lines=[Images([(counted, data)])],
    checks=[lambda: _check(study, runtime)],
  )


def _check(study: DiagnosisStudy, runtime: Runtime) -> None:
  """Refuses a checkpoint that is not the one that is meant or not finite, images of other classes, and layers
  that the model does not have."""
  networks.check_start(study.start, study.digest, study.diagnosis.data, runtime, at="diagnosis.data")
  _, network = networks.prepared(study.start, study.diagnosis.data, runtime)
  networks.check_finite(network.params, network.batch_stats)
  weights_lib.layer_groups(network.model, network.params, groups=study.diagnosis.groups)


def config_of(start: str, diagnosis: dict[str, Any]) -> dict[str, Any]:
  """The config of a study of one checkpoint, as `jaxtl run` would read it.

  Args:
    start: the checkpoint; the config holds the digest of its weights, so that others are another study.
    diagnosis: fields of `Diagnosis`, the data as `network.data_config` makes them.
  """
  return dict(
    study=".studies.layers.diagnosis.rows",
    title=f"Layers of {start}",
    base=dict(start=start, digest=networks.digest(start), diagnosis=diagnosis),
    arms=dict(checkpoint={}),
    seeds=[0],
  )
