"""The config of a pre-training."""

from __future__ import annotations

import dataclasses

from jaxtl import config as config_lib
from jaxtl.measure.lambda_max import Flatness
from jaxtl.studies.transfer.settings import Protocols
from jaxtl.train.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Tune:
  """Chooses the learning rate of each arm on a held-out part of the training set.

  Attributes:
    peak_rates: the rates to try, the same for every arm.
    epochs: length of a trial.
    held_out: share of each class that is held out from training and decides, by top-1 accuracy.
    seed: seed of the trials and of the split; the same for all seeds of the study.
    evaluation: the evaluation set whose transforms apply to the held-out part.
  """

  peak_rates: tuple[float, ...]
  epochs: float
  evaluation: str
  held_out: float = 0.1
  seed: int = 0

  def __post_init__(self) -> None:
    config_lib.require(
      peak_rates=(self.peak_rates, len(self.peak_rates) > 0, "at least one rate"),
      epochs=(self.epochs, self.epochs > 0, "a number above 0"),
      held_out=(self.held_out, 0 < self.held_out < 1, "a share between 0 and 1"),
    )


@dataclasses.dataclass(frozen=True)
class Pretrain(Experiment):
  """An experiment, and the measures of its weights.

  Attributes:
    tune: chooses `optimizer.peak_rate`; None keeps the config's.
    flatness: measured at every checkpoint; None skips it.
    transfer: targets and protocols; None skips them.
  """

  tune: Tune | None = None
  flatness: Flatness | None = None
  transfer: Protocols | None = None
