"""What a patching study patches, how, and what it reports."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Literal

from jaxtl import config as config_lib
from jaxtl import weights
from jaxtl.config import Spec
from jaxtl.errors import ConfigError
from jaxtl.studies.patching import frozen_heads
from jaxtl.studies.transfer.settings import FineTune
from jaxtl.train.inputs import Data
from jaxtl.train.source_overlap import overlap

LINEAR_PROBE = Spec(".studies.patching.linear_probe", "fn", {}, frozen_heads.linear_probe)
OPTIMIZE = Spec(".weights.optimize_alpha", "fn", {}, weights.optimize_alpha)
# The weights before and after fine-tuning, which are always reported, must lie within.
BOUNDS = "two numbers, at most 0 and at least 1"
NORMALISATIONS = ("initial", "endpoints", "log_classes", "none")


@dataclasses.dataclass(frozen=True)
class PatchTask:
  """A data set that the backbone answers through a frozen head of its own.

  Attributes:
    validation: what the coefficient is chosen on, without augmentation; never the test images.
    test: what is reported.
    train: what the head may be fitted to, and what a patching task is fine-tuned on, augmented; None where
      the head needs no images.
    head: a function (`heads.HeadInputs`) -> the head's parameters; None takes the study's.
  """

  validation: Data
  test: Data
  train: Data | None = None
  head: Spec | None = None

  def __post_init__(self) -> None:
    others = [data.source for data in (self.test, self.train) if data]
    if any(overlap(self.validation.source, other) for other in others):
      raise ConfigError(
        "validation has images of the task's test or training data, and a coefficient must not be chosen "
        "on either: hold out a part of the training images, .data.part_of(start=0.9)"
      )


METHODS = (
  "joint",
  "sequential",
  "parallel",
  "uniform_soup",
  "greedy_soup",
  "task_arithmetic",
  "negation",
  "ties",
  "dare",
  "fisher",
)
# Those that are only made where a config names them.
MORE_METHODS = ("dare_ties",)


@dataclasses.dataclass(frozen=True)
class Merging:
  """All patching tasks into one model, by each method, against all supported tasks together.

  Attributes:
    methods: of `METHODS`, by default all, and of `MORE_METHODS`. "joint" fine-tunes one model on all
      tasks; "sequential" patches one after the other; "parallel" adds all task vectors, first with one
      coefficient, then with one for each; "dare_ties" is DARE before TIES.
    step: of the grid of coefficients for task arithmetic, negation, TIES and DARE; the best validation
      objective wins. 0.1 for n tasks means multiples of 0.1 up to 1.
    density: what TIES keeps of each vector; 0.2 is the paper's.
    aggregate: of the entries that TIES joins: their "mean", the paper's, or their "sum".
    drop: what DARE leaves out.
    num_fisher: validation images per task for the Fisher diagonals.
    max_sweeps: over the coefficients of "parallel"; 0 keeps the one.
  """

  methods: tuple[str, ...] = METHODS
  step: float = 0.1
  density: float = 0.2
  aggregate: Literal["mean", "sum"] = "mean"
  drop: float = 0.5
  num_fisher: int = 256
  max_sweeps: int = 2

  def __post_init__(self) -> None:
    config_lib.require(
      methods=(
        self.methods,
        len(self.methods) > 0 and not set(self.methods) - {*METHODS, *MORE_METHODS},
        f"some of {', '.join((*METHODS, *MORE_METHODS))}",
      ),
      step=(self.step, 0 < self.step <= 1, "above 0, at most 1"),
      density=(self.density, 0 < self.density <= 1, "above 0, at most 1"),
      drop=(self.drop, 0 <= self.drop <= 1, "from 0 to 1"),
      num_fisher=(self.num_fisher, self.num_fisher >= 1, "at least 1"),
      max_sweeps=(self.max_sweeps, self.max_sweeps >= 0, "0 or more"),
    )


@dataclasses.dataclass(frozen=True)
class Patching:
  """PAINT: a backbone before and after fine-tuning on a patching task, and the best point between them.

  Ilharco et al., "Patching open-vocabulary models by interpolating weights", 2022, arXiv 2208.05592. The
  coefficient minimises the sum of normalised losses instead of being the best of a grid of accuracies.

  Attributes:
    start: the checkpoint, a run's folder or an imported weight.
    supported: the tasks that must not get worse, by name.
    patching: the tasks that are to get better, by name.
    fine_tune: how; the head stays frozen, unless `train_head`. Nothing is evaluated on the way, and at least
      one checkpoint stays, since the interpolation needs it.
    head: makes the heads, as `PatchTask.head`.
    normalise: of the losses: "initial", "endpoints", "log_classes" or "none"; see `weights.PaintObjective`.
    search: a function (alpha -> value) -> `weights.AlphaResult`; it must take `warm` and `bounds`. The latter
      may be wider than [0, 1], (0, 1.2) for example: alphas above 1 go beyond the fine-tuned weights.
    train_head: fine-tunes the patching task's head too and interpolates it: WiSE-FT (Wortsman et al., "Robust
      fine-tuning of zero-shot models", 2021, arXiv 2109.01903).
    statistics_batches: batches of training images, of both tasks in turn, that normalisation statistics are
      estimated from anew at every alpha; 0 interpolates the stored ones.
    merging: all patching tasks into one model; None leaves it out.
  """

  start: str
  supported: Mapping[str, PatchTask]
  patching: Mapping[str, PatchTask]
  fine_tune: FineTune
  head: Spec = LINEAR_PROBE
  normalise: str = "initial"
  search: Spec = OPTIMIZE
  train_head: bool = False
  statistics_batches: int = 0
  merging: Merging | None = None

  def __post_init__(self) -> None:
    low, high = self.bounds
    both = sorted(set(self.supported) & set(self.patching))
    without = [name for name, task in self.patching.items() if task.train is None]
    config_lib.require(
      supported=(tuple(self.supported), len(self.supported) > 0, "at least one task"),
      patching=(tuple(self.patching), len(self.patching) > 0, "at least one task"),
      names=(tuple(both), not both, "no task that is both supported and patched"),
      train=(tuple(without), not without, "train data for every patching task"),
      normalise=(self.normalise, self.normalise in NORMALISATIONS, f"one of {', '.join(NORMALISATIONS)}"),
      **{"search.bounds": (self.bounds, low <= 0 and high >= 1, BOUNDS)},
      merging=(self.merging, not (self.merging and self.train_head), "None where heads are trained"),
      statistics_batches=(self.statistics_batches, self.statistics_batches >= 0, "0 or more"),
    )
    config_lib.check_names(self.supported, at="supported")
    config_lib.check_names(self.patching, at="patching", reserved=("joint", "sequential"))

  @property
  def bounds(self) -> tuple[float, float]:
    """Of the coefficient: what the search says, or has for a default.

    Raises:
      ConfigError: they are not two.
    """
    default = inspect.signature(self.search.target).parameters.get("bounds")
    found = tuple(self.search.keywords.get("bounds", default.default if default else (0.0, 1.0)))
    config_lib.require(**{"search.bounds": (found, len(found) == 2, BOUNDS)})
    low, high = found
    return low, high

  @property
  def tasks(self) -> dict[str, PatchTask]:
    """All tasks by name, supported ones first."""
    return {**self.supported, **self.patching}
