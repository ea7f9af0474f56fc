"""What a study amounts to before it runs, as data.

A study says it once, in `plan(study, runtime) -> Plan` next to its `rows`. From the plan follow the rehearsal
of every training, the checks of data and checkpoints, what `jaxtl check` prints, and the time left
(`runner.preflight`, `runner.describe`). A plan opens no data: it says what will be opened.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.errors import CheckpointError, ConfigError
from jaxtl.train import experiment as experiments
from jaxtl.train.experiment import ANY_LENGTH, SOME_CLASSES, Experiment, Program, image_passes
from jaxtl.train.image_size import image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import TrainState


@dataclasses.dataclass(frozen=True)
class DataFacts:
  """What is known of images: how many, of how many classes, and the side of those that a model sees."""

  num_examples: int | None = None
  num_classes: int | None = None
  image_size: int | None = None

  @property
  def is_complete(self) -> bool:
    """Whether all of it is known."""
    return None not in dataclasses.astuple(self)

  def or_else(self, other: DataFacts) -> DataFacts:
    """These facts, with gaps filled from other ones."""
    mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
    return DataFacts(**{name: theirs[name] if value is None else value for name, value in mine.items()})


def facts_in_config(data: Data) -> DataFacts:
  """What the config says of images."""
  return DataFacts(data.num_examples, data.num_classes, image_size_of(data))


def facts(data: Data, runtime: Runtime) -> DataFacts:
  """What the config says of images, and what the source holds where the config leaves something open.

  Raises:
    DataError: the source cannot be opened.
  """
  found = facts_in_config(data)
  return found if found.is_complete else found.or_else(facts_of_source(data, runtime))


def facts_of_source(data: Data, runtime: Runtime) -> DataFacts:
  """What the source holds, whatever the config says.

  Raises:
    DataError: the source cannot be opened.
  """
  source = runtime.open(data)
  size = image_size_of(data)
  return DataFacts(len(source), len(source.classes), runtime.image_shape(data)[0] if size is None else size)


@dataclasses.dataclass(frozen=True)
class Training:
  """A training, or another work on gradients, whose steps, parameters and memory can be told.

  Attributes:
    data: the images that it learns from.
    experiment: makes it from what is known of the images.
    has_model: whether the model is known; False if the checkpoint that has it is missing.
    known: what is known of the images besides what their own config says, and takes precedence over it.
    at: what errors name it by; empty: they need no name.
    traced: checks the program and the shapes of its first state, once the size of the images is known.
    times: how often a cell does it.
    is_shared: whether the seeds of an arm do it once, together.
    is_listed: False for repeats of a training that is listed, such as trials of rates.
    is_whole: whether `jaxtl check` describes it with its loss, optimiser and every parameter.
    takes_steps: False for gradients without steps.
  """

  data: Data
  experiment: Callable[[DataFacts], Experiment]
  has_model: bool = True
  known: DataFacts = DataFacts()
  at: str = ""
  traced: Callable[[Program, TrainState], None] | None = None
  times: int = 1
  is_shared: bool = False
  is_listed: bool = True
  is_whole: bool = False
  takes_steps: bool = True

  def facts_in_config(self) -> DataFacts:
    """What is known without opening the data."""
    return self.known.or_else(facts_in_config(self.data))

  def facts(self, runtime: Runtime) -> DataFacts:
    """What is known, opening the data if anything is missing. Raises DataError, as `facts` does."""
    found = self.facts_in_config()
    return found if found.is_complete else found.or_else(facts_of_source(self.data, runtime))

  def rehearse(self, known: DataFacts, mesh: Any) -> None:
    """Makes all that the training makes and traces its first step, if model and image size are known.

    Raises:
      ConfigError: a component refuses its keywords, the model, or the parameters that it is to work on.
    """
    made = self.experiment(known)
    if not self.has_model:
      context: dict[str, Any] = dict(total_steps=ANY_LENGTH, steps_per_epoch=1, blocks=(), mesh=None)
      made.task.realize(num_classes=SOME_CLASSES if known.num_classes is None else known.num_classes)
      made.optimizer.realize(**context)
      made.gradient.realize(**context)
      return
    program, state = self.traced_at(known, mesh)
    if self.traced is not None and state is not None:
      self.traced(program, state)

  def traced_at(self, known: DataFacts, mesh: Any) -> tuple[Program, TrainState | None]:
    """The program, and the shapes of its first state; None if the image size is not known."""
    return experiments.rehearse(
      self.experiment(known),
      num_classes=SOME_CLASSES if known.num_classes is None else known.num_classes,
      num_examples=known.num_examples,
      image_size=known.image_size,
      mesh=mesh,
    )

  def check_data(self, runtime: Runtime) -> None:
    """Opens the data; refuses evaluation sets of other classes, and a schedule that does not fit the length.

    Raises:
      ConfigError, DataError: one of these.
    """
    found = self.known.or_else(facts_of_source(self.data, runtime))
    made = self.experiment(found)
    experiments.check_classes(made, runtime.open(self.data).classes, runtime)
    if not self.has_model:
      return
    experiments.check_targets(made, made.task.realize(num_classes=found.num_classes or 0), runtime)
    try:
      experiments.check_schedule(made, runtime)
    except ConfigError as error:
      raise ConfigError(f"{self.at}: {error}" if self.at else str(error)) from error
    if self.facts_in_config().image_size is None:
      self.rehearse(found, runtime.mesh)

  def passes(self, runtime: Runtime) -> float:
    """Image passes of all its repeats, for the time left."""
    found = self.known.or_else(DataFacts(len(runtime.open(self.data))))
    assert found.num_examples is not None
    return self.times * image_passes(self.experiment(found), found.num_examples)


@dataclasses.dataclass(frozen=True)
class Images:
  """A line of `jaxtl check` about images.

  Attributes:
    parts: texts with `{}` for the number of images, and the images, such as ("{} train", data).
    label: what they are of.
    more: further texts.
    missing: files besides the images that do not exist; each has a line.
    check: checks what the opened images tell.
  """

  parts: Sequence[tuple[str, Data]]
  label: str = ""
  more: Sequence[str] = ()
  missing: Sequence[str] = ()
  check: Callable[[], None] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that a study will open, train and measure.

  Attributes:
    starts: the checkpoints that it starts from: path in the config -> path on the disk.
    trainings: by name.
    lines: what `jaxtl check` lists before the trainings: images, and pairs of what and a text. A text may be
      a function that opens data; its line is left out if they are missing.
    same_classes: (place for messages, images, images that must have the same class list).
    measurements: image passes of what is measured, by name; called when the data are open.
    checks: what only the study knows to check once data and checkpoints are open.
  """

  starts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  trainings: Mapping[str, Training] = dataclasses.field(default_factory=dict)
  lines: Sequence[Images | tuple[str, str | Callable[[], str]]] = ()
  same_classes: Sequence[tuple[str, Data, Data]] = ()
  measurements: Mapping[str, Callable[[], float]] = dataclasses.field(default_factory=dict)
  checks: Sequence[Callable[[], None]] = ()

  @property
  def images(self) -> list[Images]:
    """The lines that are about images."""
    return [line for line in self.lines if isinstance(line, Images)]

  def cell_passes(self, runtime: Runtime) -> float:
    """Image passes of one cell, for the time left; opens the data."""
    trained = [one for one in self.trainings.values() if one.takes_steps and not one.is_shared]
    measured = sum(measure() for measure in self.measurements.values())
    return measured + sum(training.passes(runtime) for training in trained)

  def shared_passes(self, runtime: Runtime) -> float:
    """Image passes that the seeds of an arm share."""
    return sum(one.passes(runtime) for one in self.trainings.values() if one.is_shared)


def plan_of(rows: Callable[..., Any], study: Any, runtime: Runtime) -> Plan:
  """The plan that the module of a study's `rows` makes; for an experiment without one, its training.

  Raises:
    ConfigError: a mistake in the config that shows without data.
  """
  make = getattr(sys.modules[rows.__module__], "plan", None)
  if callable(make):
    return make(study, runtime)
  if isinstance(study, Experiment):
    return Plan(trainings={"training": Training(study.data, lambda facts: study, is_whole=True)})
  return Plan()


def existing_start(path: str) -> Weights | None:
  """The checkpoint that a study starts from; None if there is none yet.

  Raises:
    CheckpointError, StorageError: it exists, and `checkpoint.load` refuses it.
  """
  try:
    checkpoint.find(path)
  except CheckpointError:
    return None
  return checkpoint.load(path)
