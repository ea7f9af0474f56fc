"""The config of a transfer: targets, probes and fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxtl import config as config_lib
from jaxtl.config import Spec
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.train.experiment import PLAIN, check_length
from jaxtl.train.inputs import Data

HEADS = ("fresh", "probe")


@dataclasses.dataclass(frozen=True)
class Target:
  """A data set to transfer to.

  Attributes:
    train: the training images, with augmentation. Data without transforms take those of `test` and a standard
      augmentation.
    test: the images whose scores are reported, with evaluation transforms. Data without transforms take the
      checkpoint's own: its size, crop and normalisation.
  """

  train: Data
  test: Data


@dataclasses.dataclass(frozen=True)
class FineTune:
  """Trains all weights from the checkpoint, with a new head.

  Attributes:
    task: its loss. Normalisation statistics are frozen unless it sets `frozen_stats=False`.
    optimizer, gradient, epochs, steps: as in an experiment.
    evaluate_every_epochs: period of the test evaluations for the curve and the best accuracy; None evaluates
      only at the end, and the best is then the last.
    checkpoint_every: period in steps of the checkpoints from which a stopped fine-tuning resumes; None saves
      only at the end.
    keep: number of checkpoints to retain per fine-tuning; 0 removes its weights as soon as its row is
      written.
    head: initialisation of the head. "fresh" draws it as the model does. "probe" takes the linear probe of
      the target, fitted as `Protocols.linear_probe` specifies, so that the backbone is not distorted while a
      random head is learned: Kumar, Raghunathan, Jones, Ma, Liang, "Fine-Tuning can Distort Pretrained
      Features and Underperform Out-of-Distribution", 2022, arXiv 2202.10054.
  """

  task: Spec
  optimizer: Spec
  epochs: float | None = None
  gradient: Spec = PLAIN
  evaluate_every_epochs: float | None = 1.0
  steps: int | None = None
  checkpoint_every: int | None = 500
  keep: int = 1
  head: str = "fresh"

  def __post_init__(self) -> None:
    every, period = self.evaluate_every_epochs, self.checkpoint_every
    check_length(self.epochs, self.steps)
    config_lib.require(
      evaluate_every_epochs=(every, every is None or every > 0, "a number above 0"),
      checkpoint_every=(period, period is None or period >= 1, "at least 1"),
      keep=(self.keep, self.keep >= 0, "0 or more"),
      head=(self.head, self.head in HEADS, f"one of {', '.join(HEADS)}"),
    )


@dataclasses.dataclass(frozen=True)
class Protocols:
  """The targets and protocols of a transfer.

  Attributes:
    targets: data sets by name.
    linear_probe, fine_tune: None skips the protocol; a fine-tuning that starts from the probe then fits it
      with the defaults.
  """

  targets: Mapping[str, Target]
  linear_probe: LinearProbe | None = None
  fine_tune: FineTune | None = None

  def __post_init__(self) -> None:
    config_lib.check_names(self.targets, at="targets")


@dataclasses.dataclass(frozen=True)
class Transfer:
  """The study: one checkpoint per arm, transferred to every target.

  Attributes:
    start: the checkpoint, a run's folder.
    transfer: the targets and protocols.
  """

  start: str
  transfer: Protocols
