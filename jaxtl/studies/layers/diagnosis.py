"""The study that diagnoses the layers of checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import weights as weights_lib
from jaxtl.config import call
from jaxtl.host.remember import remember
from jaxtl.measure import network as networks
from jaxtl.measure.layer_diagnosis import Diagnosis, diagnose
from jaxtl.runner.plan import Images, Plan
from jaxtl.tasks import CROSS_ENTROPY
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row


@dataclasses.dataclass(frozen=True)
class DiagnosisStudy:
  """A study of one checkpoint per arm.

  Attributes:
    start: the checkpoint, a run's folder or an imported weight.
    diagnosis: the images and the search. Data without transforms use those of the checkpoint.
    digest: the required digest of the weights, as `weights` in a row; None accepts any.
  """

  start: str
  diagnosis: Diagnosis
  digest: str | None = None


def rows(study: DiagnosisStudy, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields rows of the kind layer_diagnosis; `seed` draws another subset.

  The loss is the cross-entropy of a classification, and the training loss of another task, which its rows
  name as `differentiated`.
  """
  images, network = networks.prepared(study.start, study.diagnosis.data, runtime)
  about = networks.about(study.start, network)
  networks.same_weights(workdir, about)
  plan = dataclasses.replace(study.diagnosis, data=images, seed=study.diagnosis.seed + seed)
  runtime.progress.title = "/".join(workdir.parts[-2:])

  loss = CROSS_ENTROPY if network.classifies else network.loss
  if not network.classifies:
    about["differentiated"] = call(config_lib.plain(network.task))

  def compute() -> dict[str, list[Row]]:
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
  """Makes the checks that need open data and checkpoints.

  It refuses a checkpoint with another digest or weights that are not finite, images of other classes, and
  layers that the model does not have.
  """
  networks.check_start(study.start, study.digest, study.diagnosis.data, runtime, at="diagnosis.data")
  _, network = networks.prepared(study.start, study.diagnosis.data, runtime)
  networks.check_finite(network.params, network.batch_stats)
  weights_lib.layer_groups(network.model, network.params, groups=study.diagnosis.groups)


def config_of(start: str, diagnosis: dict[str, Any]) -> dict[str, Any]:
  """Returns the config of a study of one checkpoint, as `jaxtl run` would read it.

  Args:
    start: the checkpoint. The config holds the digest of its weights, so other weights are another study.
    diagnosis: fields of `Diagnosis`, with data from `network.data_config`.
  """
  return dict(
    study=".studies.layers.diagnosis.rows",
    title=f"Layers of {start}",
    base=dict(start=start, digest=networks.digest(start), diagnosis=diagnosis),
    arms=dict(checkpoint={}),
    seeds=[0],
  )
