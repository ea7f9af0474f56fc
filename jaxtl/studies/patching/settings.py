"""The config of a patching study: its tasks, its method and its merges."""

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
# The bounds must contain the weights before and after fine-tuning, which are always reported.
BOUNDS = "two numbers, at most 0 and at least 1"
NORMALISATIONS = ("initial", "endpoints", "log_classes", "none")


@dataclasses.dataclass(frozen=True)
class PatchTask:
  """A data set that the backbone answers through its own frozen head.

  Attributes:
    validation: the images on which the coefficient is chosen, without augmentation; never the test images.
    test: the images whose scores are reported.
    train: the images for fitting the head and, with augmentation, for fine-tuning on a patching task; None if
      the head needs no images.
    head: a function (`frozen_heads.HeadInputs`) -> the head's parameters; None takes the study's.
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
# Methods that run only if a config names them.
MORE_METHODS = ("dare_ties",)


@dataclasses.dataclass(frozen=True)
class Merging:
  """Merges all patching tasks into one model, by each method, against all supported tasks together.

  Attributes:
    methods: names from `METHODS`, by default all of them, and from `MORE_METHODS`. "joint" fine-tunes one
      model on all tasks; "sequential" patches one after the other; "parallel" adds all task vectors, first
      with one coefficient, then with one for each; "dare_ties" applies DARE before TIES.
    step: step of the grid of coefficients for task arithmetic, negation, TIES and DARE; the best validation
      objective wins. 0.1 for n tasks means multiples of 0.1 up to 1.
    density: the share of each vector that TIES retains; 0.2 is the paper's.
    aggregate: how TIES combines entries: their "mean", as in the paper, or their "sum".
    drop: the share of entries that DARE drops.
    num_fisher: validation images per task for the Fisher diagonals.
    max_sweeps: sweeps over the coefficients of "parallel"; 0 keeps the single coefficient.
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
    fine_tune: the fine-tuning recipe; the head stays frozen, unless `train_head`. No evaluation runs during
      it, and at least one checkpoint is retained, because the interpolation needs it.
    head: makes the heads, as `PatchTask.head`.
    normalise: normalisation of the losses: "initial", "endpoints", "log_classes" or "none"; see
      `weights.PaintObjective`.
    search: a function (alpha -> value) -> `weights.AlphaResult`; it must take `warm` and `bounds`. The bounds
      may be wider than [0, 1], for example (0, 1.2): an alpha above 1 extrapolates beyond the fine-tuned
      weights.
    train_head: fine-tunes the patching task's head too and interpolates it: WiSE-FT (Wortsman et al., "Robust
      fine-tuning of zero-shot models", 2021, arXiv 2109.01903).
    statistics_batches: number of batches of training images, from both tasks in turn, from which
      normalisation statistics are re-estimated at every alpha; 0 interpolates the stored ones.
    merging: merges all patching tasks into one model; None skips it.
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
    """The bounds of the coefficient: those of the search's keywords, or the default of its function.

    Raises:
      ConfigError: there are not two.
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
