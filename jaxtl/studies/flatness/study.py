"""Flatness of checkpoints: the spectrum of the Hessian, sharpness, and the loss around the weights.

Curvatures of different losses cannot be compared, so everything is measured for the cross-entropy. All but
blocks and planes are also measured for the loss that a checkpoint was trained with. A checkpoint of a task
without classes has no cross-entropy: everything is measured for its training loss. The images are a fixed
subset without augmentation. Normalisation uses the stored statistics.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optax

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl import weights as weights_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec, call
from jaxtl.errors import ConfigError
from jaxtl.host.remember import remember
from jaxtl.measure import blocks
from jaxtl.measure import network as networks
from jaxtl.measure.lambda_max import Flatness
from jaxtl.measure.landscape import Landscape, extreme_numbers
from jaxtl.measure.network import Network
from jaxtl.measure.passes import FORWARD, PRODUCT
from jaxtl.runner.plan import DataFacts, Images, Plan, Training, existing_start
from jaxtl.studies.flatness.settings import FlatnessStudy
from jaxtl.tasks import CROSS_ENTROPY as CROSS_ENTROPY_LOSS
from jaxtl.train.experiment import Experiment
from jaxtl.train.image_size import at_size
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import ExampleLoss, Params, Row

CROSS_ENTROPY = "cross_entropy"
TRAINING = "training"


def rows(study: FlatnessStudy, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields rows of the kinds flatness (one per loss), layer, slice and plane; `seed` draws another subset."""
  images, network, other = _prepared(study, runtime)
  about = networks.about(study.start, network)
  networks.same_weights(workdir, about)
  flatness = dataclasses.replace(study.flatness, seed=study.flatness.seed + seed)
  work = _work(study, network, runtime)
  for name, loss in _losses(network).items():
    runtime.progress.title = f"{'/'.join(workdir.parts[-2:])} | {name.replace('_', '-')}"

    def compute(name: str = name, loss: ExampleLoss = loss) -> dict[str, list[Row]]:
      subset = dict(num_examples=flatness.num_examples, seed=flatness.seed)
      at = Landscape.of(network.model, network.params, network.batch_stats, loss, images, runtime, **subset)
      return {"rows": _measured(at, flatness, study, work[name], other)}

    recalled = functools.partial(runtime.progress.skip, sum(work[name].values()))
    note = runtime.progress.note
    for row in remember(workdir / f"{name}.json", compute, recalled=recalled, note=note)["rows"]:
      yield {**row, "loss": name, "differentiated": _loss_name(name, network.task), **about}


def config_of(start: str, data: dict[str, Any], *, num_examples: int) -> dict[str, Any]:
  """Returns the config of a study of one checkpoint, as `jaxtl run` would read it.

  Args:
    start: the checkpoint. The config holds the digest of its weights, so other weights are another study.
    data: from `network.data_config`.
    num_examples: number of images in the subset.
  """
  return dict(
    study=".studies.flatness.rows",
    title=f"Flatness of {start}",
    base=dict(
      start=start, digest=networks.digest(start), flatness=dict(data=data, num_examples=num_examples)
    ),
    arms=dict(checkpoint={}),
    seeds=[0],
  )


def _measured(
  at: Landscape,
  flatness: Flatness,
  study: FlatnessStudy,
  work: dict[str, float],
  other: tuple[Params, Params] | None,
) -> list[Row]:
  """Returns all rows of one loss, from the parts in `work`."""

  def part(name: str) -> AbstractContextManager[None]:
    return at.meter.part(name, work=work[name])

  with part("λ_max"):
    row: Row = {"kind": "flatness", **at.facts()}
    extremes = at.extremes(num_iters=flatness.num_iters, tolerance=flatness.tolerance)
    row |= extreme_numbers(extremes) | {"tolerance": flatness.tolerance}
    _note(at, f"λ_max {row['lambda_max']:.4g} after {row['num_products']} products")
  if study.spectrum is not None:
    with part("spectrum"):
      row |= at.spectrum(study.spectrum)
      _note(at, f"spectrum: trace {row['trace']:.4g} ± {row['trace_error']:.2g}")
  if study.sharpness is not None:
    with part("sharpness"):
      row |= at.sharpness(study.sharpness)
      _note(at, f"sharpness: SAM's first order {row['sam_first_order']:.4g}{_without_fisher(row)}")
  return [row, *_around(at, study, work, extremes.algebraic.vector, other)]


def _around(
  at: Landscape,
  study: FlatnessStudy,
  work: dict[str, float],
  eigenvector: Params,
  other: tuple[Params, Params] | None,
) -> list[Row]:
  """Returns the rows of blocks, lines and the plane."""
  found: list[Row] = []
  if study.layers is not None and "blocks" in work:
    with at.meter.part("blocks", work=work["blocks"]):
      for layer in blocks.rows(at, study.layers):
        found.append({"kind": "layer", **layer})
        _note(at, f"block {layer['layer']}: λ_max {layer['layer_lambda_max']:.4g}")
  if study.slice is not None:
    with at.meter.part("lines", work=work["lines"]):
      found += [{"kind": "slice", **line} for line in at.slices(study.slice, eigenvector, other)]
      _note(at, "lines through the weights")
  if study.plane is not None and "plane" in work:
    with at.meter.part("plane", work=work["plane"]):
      found.append({"kind": "plane", **at.plane(study.plane, eigenvector)})
      _note(at, "plane around the weights")
  return found


def _without_fisher(row: Row) -> str:
  if "fisher_rao_norm" in row:
    return ""
  return "; without the Fisher-Rao norm, which is of classifications"


def _note(at: Landscape, text: str) -> None:
  at.runtime.progress.note(f"{at.runtime.progress.title} | {text}, {at.meter.seconds():.0f} s")


def _work(study: FlatnessStudy, network: Network, runtime: Runtime) -> dict[str, dict[str, float]]:
  """Returns loss -> part -> maximum image passes; only the first loss has the costly blocks and planes."""
  flatness = study.flatness
  images = min(flatness.num_examples, len(runtime.open(flatness.data)))
  passes = {"λ_max": FORWARD + PRODUCT * flatness.num_iters}
  for name, plan in (("spectrum", study.spectrum), ("sharpness", study.sharpness), ("lines", study.slice)):
    if plan is not None:
      passes[name] = plan.passes
  more = {} if study.plane is None else {"plane": study.plane.passes}
  if study.layers is not None:
    more["blocks"] = study.layers.passes(len(network.model.blocks))
  return {
    loss: {name: images * one for name, one in (passes | ({} if number else more)).items()}
    for number, loss in enumerate(_losses(network))
  }


def _losses(network: Network) -> dict[str, ExampleLoss]:
  """Returns the cross-entropy, and the loss that the network was trained with if it is another one.

  Other tasks than classifications have only the latter.
  """
  if not network.classifies:
    return {TRAINING: network.loss}
  found: dict[str, ExampleLoss] = {CROSS_ENTROPY: CROSS_ENTROPY_LOSS}
  if config_lib.plain(network.task).get("loss") != {"fn": ".losses.softmax_cross_entropy"}:
    found[TRAINING] = network.loss
  return found


def plan(study: FlatnessStudy, runtime: Runtime) -> Plan:
  """Plans the measurements, and a gradient of the loss, whose memory is then predicted."""
  starts, data = {"start": study.start}, study.flatness.data
  if study.slice is not None and study.slice.towards is not None:
    starts["slice.towards"] = study.slice.towards
  start = existing_start(study.start)
  counted = f"{study.flatness.num_examples} of {{}}, in batches of {data.batch_size}"
  return Plan(
    starts=starts,
    lines=[Images([(counted, data)])],
    trainings={} if start is None else {"loss": _gradient(study, start, runtime)},
    measurements={"curvature": lambda: _passes(study, runtime)},
    checks=[lambda: _check(study, runtime)],
  )


def _gradient(study: FlatnessStudy, start: Weights, runtime: Runtime) -> Training:
  """Returns a step of plain SGD in place of a gradient, because its optimiser remembers no earlier steps."""
  data = networks.filled(study.start, study.flatness.data, trust=runtime.trust)
  model, task = start.model_spec(trust=runtime.trust), networks.task_of(start, trust=runtime.trust)
  plain = Spec("optax.sgd", "make", {"learning_rate": 1.0}, optax.sgd)

  def experiment(known: DataFacts) -> Experiment:
    return Experiment(at_size(model, known.image_size), task, data, plain, steps=1)

  return Training(data, experiment, known=DataFacts(num_classes=len(start.classes)), takes_steps=False)


def _passes(study: FlatnessStudy, runtime: Runtime) -> float:
  """Returns the maximum image passes over all losses; most measurements stop earlier, at their tolerance."""
  _, network, _ = _prepared(study, runtime)
  return sum(sum(parts.values()) for parts in _work(study, network, runtime).values())


def _check(study: FlatnessStudy, runtime: Runtime) -> None:
  """Makes the checks that need open data and checkpoints.

  It refuses a checkpoint with another digest or weights that are not finite, images of other classes, more
  eigenvalues than parameters, names of parameters that do not exist, and a second checkpoint that does not
  match.
  """
  networks.check_start(study.start, study.digest, study.flatness.data, runtime, at="flatness.data")
  _, network, other = _prepared(study, runtime)
  networks.check_finite(network.params, network.batch_stats)
  count = tree.size(network.params)
  if study.spectrum is not None and study.spectrum.num_eigenvalues > count:
    asked = study.spectrum.num_eigenvalues
    raise ConfigError(
      f"spectrum.num_eigenvalues is {asked}; a network of {count} parameters has {count} eigenvalues, "
      f"so write at most {count}"
    )
  if study.layers is not None:
    tree.matches(network.params, study.layers.where)
  if other is not None:
    weights_lib.between(network.params, other[0])


def _prepared(study: FlatnessStudy, runtime: Runtime) -> tuple[Data, Network, tuple[Params, Params] | None]:
  """Returns the images with their transforms, the network for their size, and the weights of `towards`."""
  data, network = networks.prepared(study.start, study.flatness.data, runtime)
  if study.slice is None or study.slice.towards is None:
    return data, network, None
  other = networks.network(study.slice.towards, runtime.image_shape(data)[0], trust=runtime.trust)
  return data, network, (other.params, other.batch_stats)


def _loss_name(name: str, task: Spec) -> str:
  """Returns the loss that was differentiated as a short call, or its task if the task names no loss."""
  if name == CROSS_ENTROPY:
    return "softmax_cross_entropy"
  plain = config_lib.plain(task)
  return call(plain.get("loss") or plain)
