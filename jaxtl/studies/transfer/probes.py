"""Linear probes of one checkpoint on one target: on all training images, and on a few of each class."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl import losses, optim
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import DataError
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.metrics import in_top
from jaxtl.studies.transfer.settings import FewShot, Target
from jaxtl.train import sharding
from jaxtl.train.evaluate import collect_features, make_features
from jaxtl.train.experiment import make_model
from jaxtl.train.image_size import at_size, fitted
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row


class ProbeFit(NamedTuple):
  """A fitted probe, the number of its training images, and the seconds that it took."""

  choice: optim.PenaltyChoice
  num_train: int
  seconds: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OnTarget:
  """One checkpoint on one target, with a probe that is fitted on first use and cached."""

  name: str
  target: Target
  model: Spec
  start: Weights
  probe: LinearProbe
  seed: int
  runtime: Runtime

  @functools.cached_property
  def fit(self) -> ProbeFit:
    """The probe that is fitted to the training images, preprocessed like the test images."""
    began = time.monotonic()
    features, labels = self.train_features
    choice = self.probe.choose(
      features, labels, num_classes=len(self.classes), seed=self.seed, beat=self.runtime.beat
    )
    return ProbeFit(choice, len(labels), time.monotonic() - began)

  @functools.cached_property
  def train_features(self) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and labels [N] of the training images, preprocessed like the test images."""
    return self.features(dataclasses.replace(self.target.train, transforms=self.target.test.transforms))

  @functools.cached_property
  def test_features(self) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and labels [N] of the test images."""
    return self.features(self.target.test)

  @property
  def classes(self) -> tuple[str, ...]:
    """The target's class names."""
    classes: tuple[str, ...] = self.runtime.open(self.target.train).classes
    return classes

  def features(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Returns pooled features [N, D] of the checkpoint and labels [N], at the size of the test images."""
    mesh, size = self.runtime.mesh, self.runtime.image_shape(self.target.test)[0]
    _, fitting = fitted(self.model, self.start, size)
    features = make_features(make_model(at_size(self.model, size), num_classes=len(self.start.classes)))
    params, batch_stats = (sharding.put_replicated(x, mesh) for x in (fitting, self.start.batch_stats))
    return collect_features(features, params, batch_stats, self.runtime.eval_batches(data), mesh=mesh)

  def start_at_probe(self) -> Weights:
    """Returns the checkpoint with the probe as its head, and the target's classes."""
    head = make_model(self.model, num_classes=len(self.classes)).head
    return dataclasses.replace(
      self.start,
      params={**self.start.params, head: self.fit.choice.probe.head()},
      config={**self.start.config, "classes": list(self.classes)},
    )


def probe_row(here: OnTarget) -> Row:
  (probe, l2, chosen_by), num_train, seconds = here.fit
  began = time.monotonic()
  features, labels = here.test_features
  here.runtime.beat()
  logits = probe.logits(jnp.asarray(features))
  accuracy = float(jnp.mean(in_top(logits, jnp.asarray(labels))))
  return {
    "kind": "transfer",
    "target": here.name,
    "protocol": "linear_probe",
    "accuracy": accuracy,
    "loss": float(jnp.mean(losses.softmax_cross_entropy(logits, jnp.asarray(labels)))),
    "l2": l2,
    "l2_chosen_by": chosen_by,
    "num_iters": int(probe.num_iters),
    "converged": bool(probe.converged),
    "num_train": num_train,
    "num_test": len(labels),
    "num_classes": len(here.classes),
    "classes": list(here.classes),
    "seconds": seconds + time.monotonic() - began,
  }


def few_shot_name(shots: int) -> str:
  """Returns the name of the protocol with that many images per class."""
  return f"{shots}_shot"


def few_shot_row(here: OnTarget, few_shot: FewShot, shots: int) -> Row:
  """Fits a probe to each draw of `shots` training images per class, and tests it on all test images."""
  began = time.monotonic()
  features, labels = here.train_features
  tested, truth = (jnp.asarray(array) for array in here.test_features)
  accuracies = []
  for draw in range(few_shot.draws):
    chosen = first_of_each_class(labels, shots, seed=(here.seed, draw), name=here.name)
    probe = optim.fit_probe(
      jnp.asarray(features[chosen]),
      jnp.asarray(labels[chosen]),
      num_classes=len(here.classes),
      l2=few_shot.l2,
    )
    accuracies.append(float(jnp.mean(in_top(probe.logits(tested), truth))))
    here.runtime.beat()
  return {
    "kind": "transfer",
    "target": here.name,
    "protocol": few_shot_name(shots),
    "accuracy": float(np.mean(accuracies)),
    "accuracies": accuracies,
    "accuracy_std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
    "shots": shots,
    "l2": few_shot.l2,
    "num_train": shots * len(here.classes),
    "num_test": len(truth),
    "num_classes": len(here.classes),
    "seconds": time.monotonic() - began,
  }


def first_of_each_class(labels: np.ndarray, shots: int, *, seed: tuple[int, ...], name: str) -> np.ndarray:
  """Returns the indices of the first `shots` images of each class, in an order that the seed shuffles.

  With one seed, the images of fewer shots are among those of more.

  Raises:
    DataError: a class has fewer images.
  """
  order = np.random.default_rng(seed).permutation(len(labels))
  chosen = []
  for label in np.unique(labels):
    own = order[labels[order] == label]
    if len(own) < shots:
      raise DataError(f"{name} has {len(own)} training images of class {label}; few_shot asks for {shots}")
    chosen.append(own[:shots])
  return np.concatenate(chosen)
