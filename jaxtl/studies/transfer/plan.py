"""Describes a transfer before it runs: the images of every target, its probe and its fine-tuning."""

from __future__ import annotations

from jaxtl.config import Spec
from jaxtl.runner.plan import Extent, Training
from jaxtl.studies.transfer import study as transfer
from jaxtl.studies.transfer.settings import Protocols, Transfer
from jaxtl.train.experiment import PLAIN
from jaxtl.train.image_size import at_size
from jaxtl.train.runtime import Runtime


def of_study(study: Transfer, runtime: Runtime) -> Extent:
  """Describes a transfer study: its checkpoint's network, and what `add_protocols` adds."""
  found = Extent()
  start = found.start(study.start, trust=runtime.trust)
  model = None if start is None else start.model_spec(trust=runtime.trust)
  add_protocols(found, study.transfer, model, runtime)
  return found


def add_protocols(found: Extent, protocols: Protocols, model: Spec | None, runtime: Runtime) -> None:
  """Adds every target's images, what its probe tries, and its fine-tuning.

  Args:
    found: the description, which is changed.
    model: the network that is transferred; None if it is not known.
  """
  probe, fine_tune = protocols.linear_probe, protocols.fine_tune
  for name, target in protocols.targets.items():
    sizes = [found.images(data, runtime) for data in (target.train, target.test)]
    found.lines.append(("images", f"{sizes[0]} train, {sizes[1]} test: {name}"))
  if probe is not None:
    penalties = f"{len(probe.l2)} {'penalty' if len(probe.l2) == 1 else 'penalties'}"
    found.lines.append(("probe", f"{penalties}, at most {probe.max_iters} L-BFGS steps: every target"))
  if fine_tune is None:
    return
  for name, target in protocols.targets.items():
    known = found.facts(target.train, runtime)
    sized = PLAIN if model is None else model if known is None else at_size(model, known.image_size)
    count = None if known is None else known.num_examples
    tuned = transfer.fine_tuning(fine_tune, target, sized, count)
    found.trainings[f"fine-tune {name}"] = Training(tuned, known, has_model=model is not None)
