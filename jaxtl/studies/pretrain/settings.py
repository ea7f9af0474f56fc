"""The config of a pre-training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxtl import config as config_lib
from jaxtl.measure.lambda_max import Flatness
from jaxtl.measure.outputs import Outputs
from jaxtl.studies.transfer.settings import Protocols
from jaxtl.train.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Tune:
  """Chooses the learning rate of each arm, and one more value, on a held-out part of the training set.

  Every rate is tried with every value, so that arms whose grids have the same size get the same effort.

  Attributes:
    peak_rates: the rates to try.
    field: path in the config of a further number to choose, such as `task.loss.margin` or
      `optimizer.weight_decay`; None chooses the rate alone.
    values: the values of that field to try.
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
  field: str | None = None
  values: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    has_field = self.field is not None
    rule = "at least one value if tune.field is set, and none otherwise"
    config_lib.require(
      field=(
        self.field,
        self.field != "optimizer.peak_rate",
        "another field than the rate, which has peak_rates",
      ),
      values=(self.values, (len(self.values) > 0) == has_field, rule),
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
    outputs: sets of images, by name, on which the network's outputs are measured during training; None
      measures none.
    transfer: targets and protocols; None skips them.
  """

  tune: Tune | None = None
  flatness: Flatness | None = None
  outputs: Mapping[str, Outputs] | None = None
  transfer: Protocols | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    config_lib.check_names(self.outputs or (), at="outputs")
