"""The config of a transfer: targets, probes and fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxtl import config as config_lib
from jaxtl.config import Spec
from jaxtl.errors import ConfigError
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.train.experiment import PLAIN, check_length
from jaxtl.train.inputs import Data
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.selection import Select

HEADS = ("fresh", "probe")
# The evaluation set of a fine-tuning that may choose its rate and its step.
VALIDATION = "validation"
# The evaluation set of training images that are not augmented.
CLEAN = "clean"


@dataclasses.dataclass(frozen=True)
class Target:
  """A data set to transfer to.

  Attributes:
    train: the training images, with augmentation. Data without transforms take those of `test` and a standard
      augmentation.
    test: the images whose scores are reported, with evaluation transforms. Data without transforms take the
      checkpoint's own: its size, crop and normalisation.
    validation: images held out from training, on which a fine-tuning chooses its rate and its step. Data
      without transforms take those of `test`.
  """

  train: Data
  test: Data
  validation: Data | None = None


@dataclasses.dataclass(frozen=True)
class Curve:
  """The learning curve of a fine-tuning.

  Attributes:
    num_examples: training images, evenly over the classes, whose loss is measured without augmentation.
  """

  num_examples: int = 1000

  def __post_init__(self) -> None:
    config_lib.require(num_examples=(self.num_examples, self.num_examples >= 1, "at least 1"))


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
    peak_rates: candidate rates, of which the fine-tuning uses the one with the least cross-entropy on the
      validation images; empty uses the optimiser's own.
    select: chooses the evaluation on the validation images whose weights are used, and may end the
      fine-tuning early; None uses the last weights. See `jaxtl.train.Select`.
    from_scratch: trains fresh weights of the checkpoint's model, as the control; its normalisation then uses
      the statistics of the batch.
    adapter: makes the model that is trained from the checkpoint's: `.models.lora`. None trains that itself.
    cache: caches the hidden states below the trained blocks, if the gradient rule leaves blocks fixed
      (`.optim.only`) and nothing is augmented.
    interpolate: shares alpha of the way from the checkpoint to the fine-tuned weights at which weights are
      tested too; see `jaxtl.studies.transfer.interpolation`.
    curve: adds a row for each epoch, from before the first step on, and the diagnosis of over-fitting; see
      `jaxtl.studies.transfer.curves`.
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
  peak_rates: tuple[float, ...] = ()
  select: Select | None = None
  adapter: Spec | None = None
  cache: PrefixCache = dataclasses.field(default_factory=PrefixCache)
  interpolate: tuple[float, ...] = ()
  curve: Curve | None = None
  from_scratch: bool = False

  def __post_init__(self) -> None:
    every, period = self.evaluate_every_epochs, self.checkpoint_every
    check_length(self.epochs, self.steps)
    config_lib.require(
      evaluate_every_epochs=(every, every is None or every > 0, "a number above 0"),
      checkpoint_every=(period, period is None or period >= 1, "at least 1"),
      keep=(self.keep, self.keep >= 0, "0 or more"),
      head=(self.head, self.head in HEADS, f"one of {', '.join(HEADS)}"),
      peak_rates=(self.peak_rates, len(set(self.peak_rates)) == len(self.peak_rates), "different rates"),
      interpolate=(
        self.interpolate,
        all(0 <= alpha <= 1 for alpha in self.interpolate)
        and len(set(self.interpolate)) == len(self.interpolate),
        "different shares from 0 to 1",
      ),
    )
    if self.interpolate and self.adapter is not None:
      raise ConfigError(
        "fine_tune.interpolate mixes the weights with those of the checkpoint, which lack what the adapter "
        "adds; leave out one of the two"
      )
    if self.from_scratch and (self.interpolate or self.adapter is not None or self.head != "fresh"):
      raise ConfigError(
        "fine_tune.from_scratch trains fresh weights, and head='probe', adapter and interpolate use the "
        "checkpoint's; leave out one of the two"
      )
    if self.from_scratch and self.task.keywords.get("frozen_stats"):
      raise ConfigError(
        "fine_tune.from_scratch needs normalisation statistics that move, and the task has "
        "frozen_stats=True; write frozen_stats=False, or leave it out"
      )
    if self.curve is not None and every is None:
      raise ConfigError("fine_tune.curve has a row for each evaluation; give evaluate_every_epochs, as 1.0")
    if self.select is not None and self.select.evaluation != VALIDATION:
      raise ConfigError(
        f"fine_tune.select.evaluation is {self.select.evaluation!r}; expected {VALIDATION!r}: the test "
        "images must not choose"
      )

  @property
  def chooses(self) -> bool:
    """Whether it needs validation images."""
    return bool(self.peak_rates) or self.select is not None


@dataclasses.dataclass(frozen=True)
class FewShot:
  """Linear probes on a few training images of each class, tested on all test images.

  Attributes:
    shots: images per class, one protocol each: `5_shot`.
    draws: how often the images are drawn; the row holds mean and standard deviation of the accuracy. The
      images of a draw are nested: more shots contain the fewer.
    l2: the penalty of every probe: too few images are left to choose it on.
  """

  shots: tuple[int, ...] = (1, 5, 10)
  draws: int = 5
  l2: float = 0.1

  def __post_init__(self) -> None:
    shots = self.shots
    config_lib.require(
      shots=(shots, len(set(shots)) == len(shots) > 0 and min(shots) >= 1, "different integers from 1"),
      draws=(self.draws, self.draws >= 1, "at least 1"),
      l2=(self.l2, self.l2 > 0, "a number above 0"),
    )


@dataclasses.dataclass(frozen=True)
class Protocols:
  """The targets and protocols of a transfer.

  Attributes:
    targets: data sets by name.
    linear_probe, few_shot, fine_tune: None skips the protocol; a fine-tuning that starts from the probe then
      fits it with the defaults.
  """

  targets: Mapping[str, Target]
  linear_probe: LinearProbe | None = None
  fine_tune: FineTune | None = None
  few_shot: FewShot | None = None

  def __post_init__(self) -> None:
    config_lib.check_names(self.targets, at="targets")
    for name, target in self.targets.items():
      if self.fine_tune is not None and self.fine_tune.chooses and target.validation is None:
        raise ConfigError(
          f"targets.{name} has no validation images, and the fine-tuning chooses its rate or its step; give "
          "it `validation`, or leave out fine_tune.peak_rates and fine_tune.select"
        )


@dataclasses.dataclass(frozen=True)
class Transfer:
  """The study: one checkpoint per arm, transferred to every target.

  Attributes:
    start: the checkpoint, a run's folder.
    transfer: the targets and protocols.
  """

  start: str
  transfer: Protocols
