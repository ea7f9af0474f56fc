"""The config of a layers study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtl import config as config_lib
from jaxtl.config import Spec
from jaxtl.errors import ConfigError
from jaxtl.measure.layer_diagnosis import Diagnosis
from jaxtl.train.experiment import Experiment
from jaxtl.train.inputs import Data
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.source_overlap import overlap

BASE = "base"
# More parts would not be informative, and the limit keeps their seeds apart.
_MOST_PARTS = 1000


@dataclasses.dataclass(frozen=True)
class Method:
  """One way to continue training from the base network.

  Attributes:
    gradient: makes the gradient rule: `.optim.plain`, `.optim.sam`, `.optim.pof`, `.optim.pol`, ...
    diagnosed: passes the layers that the diagnosis chooses to the rule, as its `perturb` and `update`.
    cache: caches the hidden states below the updated layers; "auto" does so if nothing is augmented and they
      fit.
    rediagnose_every: epochs after which the current network is diagnosed again, on the same images. The
      layers that this chooses are perturbed and updated from there on, by an optimiser with a new state and a
      restarted schedule. None diagnoses once, before training, as in Terauchi et al.
      (`studies/layers/study.py`).
  """

  gradient: Spec
  diagnosed: bool = False
  cache: PrefixCache = dataclasses.field(default_factory=PrefixCache)
  rediagnose_every: float | None = None

  def __post_init__(self) -> None:
    every = self.rediagnose_every
    config_lib.require(rediagnose_every=(every, every is None or every > 0, "epochs above 0, or None"))
    if every is not None and not self.diagnosed:
      raise ConfigError(
        f"rediagnose_every is {every:g}, and the method names its layers itself; write diagnosed=True, or "
        "leave rediagnose_every out"
      )


@dataclasses.dataclass(frozen=True)
class Layers:
  """The study: one base network per arm and seed, its diagnosis, and every method starting from it.

  Attributes:
    data: the training data, which every method uses for the same number of epochs.
    validation: the images on which layers, checkpoints and temperatures are chosen; never the test images.
    test: the images whose scores are reported.
    task: the loss.
    optimizer: optimiser of the post-training; in the papers with the last learning rate of the base run.
    methods: by name; the base itself is always reported.
    base: the run that makes the base network; its data may be augmented differently. None if `start` is
      given.
    start: a checkpoint to take as base network, instead.
    diagnosis: diagnosis of the base network, on held-out images; None for methods that name their layers.
    epochs: epochs of every method; 10 in the papers.
    best: takes the checkpoint of the epoch with the lowest validation loss, including the base; False takes
      the last.
  """

  data: Data
  validation: Data
  test: Data
  task: Spec
  optimizer: Spec
  methods: Mapping[str, Method]
  base: Experiment | None = None
  start: str | None = None
  diagnosis: Diagnosis | None = None
  epochs: float = 10.0
  best: bool = True

  def __post_init__(self) -> None:
    diagnosed = [name for name, method in self.methods.items() if method.diagnosed]
    if (self.base is None) == (self.start is None):
      there = "neither base nor start is" if self.base is None else "base and start are both"
      raise ConfigError(f"{there} given; write either base or start")
    config_lib.require(
      methods=(
        tuple(self.methods),
        len(self.methods) > 0 and BASE not in self.methods,
        f"at least one method, none named {BASE!r}",
      ),
      diagnosis=(
        self.diagnosis,
        self.diagnosis is not None or not diagnosed,
        "a diagnosis, because some methods are diagnosed",
      ),
      epochs=(self.epochs, self.epochs > 0, "a number above 0"),
    )
    config_lib.check_names(self.methods, at="methods")
    for name, method in self.methods.items():
      every = method.rediagnose_every
      if every is not None and self.epochs / every > _MOST_PARTS:
        raise ConfigError(
          f"methods.{name}.rediagnose_every is {every:g}; expected at least {self.epochs / _MOST_PARTS:g}, a "
          f"{_MOST_PARTS}th of epochs"
        )
    check_apart(
      self, {"data": self.data.source, **({"base.data": self.base.data.source} if self.base else {})}
    )


def check_apart(study: Layers, trained: Mapping[str, Any]) -> None:
  """Refuses images that occur in two of training, choice and test.

  Args:
    study: the study.
    trained: name -> source of images on which the base was or will be trained, as a spec or as stored in a
      checkpoint.

  Raises:
    ConfigError: names both.
  """
  chosen = {"validation": study.validation}
  if study.diagnosis is not None:
    chosen["diagnosis.data"] = study.diagnosis.data
  advice = "hold out a part, as .data.part_of(stop=0.9) and .data.part_of(start=0.9) do"
  for name, data in (chosen | {"test": study.test}).items():
    why = "where a trained network has nothing left to gain" if name in chosen else "which it has learned"
    for of, source in trained.items():
      if overlap(source, data.source):
        raise ConfigError(f"{name} has images of {of}, {why}; {advice}, or take other images")
  for name, data in chosen.items():
    if overlap(study.test.source, data.source):
      raise ConfigError(f"{name} has images of test, on which nothing may be chosen; {advice}")
