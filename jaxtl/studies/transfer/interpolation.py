"""Weights between a checkpoint and its fine-tuning, tested on the target.

Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo-Lopes, Hajishirzi, Farhadi, Namkoong, Schmidt, "Robust
Fine-Tuning of Zero-Shot Models", 2022, arXiv 2109.01903 (WiSE-FT). The checkpoint has no head for the target.
A fine-tuning that starts from the linear probe interpolates the head from the probe's; any other keeps the
fine-tuned head throughout.
"""

from __future__ import annotations

import time
from typing import Any

from jaxtl import weights as weights_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.studies.transfer.probes import OnTarget
from jaxtl.studies.transfer.settings import FineTune
from jaxtl.train import sharding
from jaxtl.train.evaluate import evaluate
from jaxtl.train.training import Trained
from jaxtl.types import Params, Row

# Without validation images the mixture is not chosen; the paper recommends the middle.
MIDDLE = 0.5


def interpolated_row(here: OnTarget, fine_tune: FineTune, trained: Trained) -> Row:
  """Tests the weights (1 - alpha) start + alpha fine-tuned for every alpha.

  Returns:
    The row of the protocol `interpolated`, at the alpha with the least cross-entropy on the validation
    images, or, without these, nearest to 1/2. `path` has a record for every alpha.
  """
  began, target = time.monotonic(), here.target
  before, after = _ends(here, fine_tune, trained)
  along = [weights_lib.line(one, other) for one, other in zip(before, after, strict=True)]
  path = []
  for alpha in sorted(fine_tune.interpolate):
    params, batch_stats = (at(alpha) for at in along)
    record: Row = {"alpha": alpha}
    for name, data in (("validation", target.validation), ("test", target.test)):
      if data is not None:
        values = _evaluated(here, trained, params, batch_stats, data)
        record |= {f"{name}_accuracy": values["top1"], f"{name}_loss": values["cross_entropy"]}
    path.append(record)
  if target.validation is None:
    chosen = min(path, key=lambda record: abs(record["alpha"] - MIDDLE))
  else:
    chosen = min(path, key=lambda record: record["validation_loss"])
  return {
    "kind": "transfer",
    "target": here.name,
    "protocol": "interpolated",
    "accuracy": chosen["test_accuracy"],
    "loss": chosen["test_loss"],
    "alpha": chosen["alpha"],
    "path": path,
    "head": fine_tune.head,
    "num_train": len(here.runtime.open(target.train)),
    "num_test": len(here.runtime.open(target.test)),
    "num_classes": len(here.classes),
    "seconds": time.monotonic() - began,
  }


def _ends(here: OnTarget, fine_tune: FineTune, trained: Trained) -> tuple[tuple[Params, Params], ...]:
  """Returns (parameters, statistics) of both ends, in one structure."""
  start: Weights = here.start_at_probe() if fine_tune.head == "probe" else here.start
  after = trained.weights
  head = trained.program.model.head
  allow = () if fine_tune.head == "probe" else (rf"^{head}/",)
  params = weights_lib.match(start.params, after.params, allow=allow)
  return (params, start.batch_stats), (after.params, after.batch_stats)


def _evaluated(
  here: OnTarget, trained: Trained, params: Params, batch_stats: Params, data: Any
) -> dict[str, float]:
  mesh = here.runtime.mesh
  there, stats = (sharding.put_replicated(x, mesh) for x in (params, batch_stats))
  values = evaluate(trained.program.measure, there, stats, here.runtime.eval_batches(data), mesh=mesh)
  here.runtime.beat()
  return values
