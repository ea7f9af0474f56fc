"""What a study amounts to before it runs: its images, its networks and trainings, and what is not there."""

from __future__ import annotations

import dataclasses

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import call
from jaxtl.errors import CheckpointError, DataError
from jaxtl.train.experiment import Experiment
from jaxtl.train.image_size import image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime

UNKNOWN = "unknown"  # how many images there are


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """What must be known of images: how many, of how many classes, and the side of those that a model sees."""

  num_examples: int
  num_classes: int
  image_size: int


@dataclasses.dataclass(frozen=True)
class Training:
  """A training, or another work on gradients, whose steps, parameters and memory can be told.

  Attributes:
    experiment: what is done; of the model's place only where `has_model`.
    facts: of its images; None where they are not there, and the config does not say them.
    has_model: whether the model is known.
    is_training: False for what takes no steps.
  """

  experiment: Experiment
  facts: DataFacts | None
  has_model: bool = True
  is_training: bool = True

  @property
  def is_known(self) -> bool:
    """Whether it can be traced."""
    return self.has_model and self.facts is not None


@dataclasses.dataclass
class Extent:
  """What a study's `extent(study, runtime)` returns.

  Attributes:
    lines: (what, text) in the order in which they are told.
    trainings: by name.
    missing: what is not there, a line each.
  """

  lines: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  trainings: dict[str, Training] = dataclasses.field(default_factory=dict)
  missing: list[str] = dataclasses.field(default_factory=list)

  @property
  def is_known(self) -> bool:
    """Whether any of its trainings can be traced."""
    return any(training.is_known for training in self.trainings.values())

  def start(self, path: str, *, trust: bool) -> Weights | None:
    """The checkpoint that a study starts from, whose network is told; None where there is none, and noted.

    Args:
      path: of the checkpoint.
      trust: as for `Weights.model_spec`.

    Raises:
      CheckpointError, StorageError: it is there, and `checkpoint.load` refuses it.
    """
    try:
      checkpoint.find(path)
    except CheckpointError:
      self.note(f"no checkpoint at {path}: make it first; its parameters and memory are told then")
      return None
    found = checkpoint.load(path)
    spec = config_lib.plain(found.model_spec(trust=trust))
    self.lines.append(("network", f"{call(spec)}, {tree.size(found.params):,} parameters"))
    return found

  def facts(self, data: Data, runtime: Runtime) -> DataFacts | None:
    """As the function of that name; None where the source cannot be opened, which is noted."""
    try:
      return facts(data, runtime)
    except DataError as error:
      self.note(str(error))
      return None

  def images(self, data: Data, runtime: Runtime) -> str:
    """How many images there are, in words."""
    if data.num_examples is not None:
      return str(data.num_examples)
    try:
      return str(len(runtime.open(data)))
    except DataError as error:
      self.note(str(error))
      return UNKNOWN

  def note(self, text: str) -> None:
    """Something that is not there; told once."""
    if text not in self.missing:
      self.missing.append(text)


def facts(data: Data, runtime: Runtime) -> DataFacts:
  """What the config says of images, and else what the source holds.

  Raises:
    DataError: the source cannot be opened.
  """
  size = image_size_of(data)
  if data.num_examples is None or data.num_classes is None or size is None:
    source = runtime.open(data)
    if size is None:
      size = runtime.image_shape(data)[0]
    return DataFacts(len(source), len(source.classes), size)
  return DataFacts(data.num_examples, data.num_classes, size)
