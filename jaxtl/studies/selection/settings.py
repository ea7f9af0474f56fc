"""The config of a selection study."""

from __future__ import annotations

import dataclasses

from jaxtl import config as config_lib
from jaxtl.errors import ConfigError
from jaxtl.measure.transfer_scores import DEFAULT, check_scores
from jaxtl.studies.transfer.settings import Protocols


@dataclasses.dataclass(frozen=True)
class SelectionStudy:
  """The study: one checkpoint per arm, its scores on every target, and how well it transfers there.

  Attributes:
    start: the checkpoint, a run's folder or an import.
    transfer: the targets, and the protocols by which transfer is measured. Scores are of the training images,
      preprocessed like the test images. Without protocols, transfer is taken from `measured_from`, or it is
      not judged.
    scores: what is computed, names of `jaxtl.measure.transfer_scores.SCORES`.
    by: the score that `jaxtl rank` would order by.
    max_examples: most training images of a target, drawn in the classes' shares.
    permutations: of the labels, under which each score is computed again; 0 leaves that out.
    controls: also scores an untrained network of the same architecture, and pixels.
    cluster: name that arms share which are seeds of one recipe, so that they are resampled together; None
      means the arm alone.
    source_accuracy: accuracy on the source data from 0 to 1, for a checkpoint whose run did not measure it.
    batch_size: images per batch of the scores.
    measured_from: folders of finished runs of the transfer or the pre-training study. Their transfer rows of
      exactly this checkpoint on targets of the same name are taken, and nothing is trained.
  """

  start: str
  transfer: Protocols
  scores: tuple[str, ...] = DEFAULT
  by: str = "ridge"
  max_examples: int = 5000
  permutations: int = 20
  controls: bool = True
  cluster: str | None = None
  source_accuracy: float | None = None
  batch_size: int = 64
  measured_from: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    check_scores(self.scores, by=self.by)
    accuracy = self.source_accuracy
    config_lib.require(
      max_examples=(self.max_examples, self.max_examples >= 2, "at least 2"),
      permutations=(self.permutations, self.permutations == 0 or self.permutations >= 2, "0, or at least 2"),
      source_accuracy=(accuracy, accuracy is None or 0 <= accuracy <= 1, "from 0 to 1"),
      batch_size=(self.batch_size, self.batch_size >= 1, "at least 1"),
    )
    if self.measured_from and self.measures:
      raise ConfigError(
        "measured_from takes transfer from finished runs, and transfer has protocols that would measure it; "
        "give one of them"
      )

  @property
  def measures(self) -> bool:
    """Whether it measures transfer itself."""
    protocols = self.transfer
    return any(one is not None for one in (protocols.linear_probe, protocols.fine_tune, protocols.few_shot))
