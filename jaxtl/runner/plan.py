"""The plan of a study: what it will open, train and measure, as data.

A study defines it once, in `plan(study, runtime) -> Plan` next to its `rows`. The plan determines the
rehearsal of every training, the checks of data and checkpoints, the output of `jaxtl check`, and the estimate
of the time left (`runner.preflight`, `runner.describe`). A plan opens no data; it lists what will be opened.
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
  """Facts about images: number, number of classes, and the side that a model sees; None if unknown."""

  num_examples: int | None = None
  num_classes: int | None = None
  image_size: int | None = None

  @property
  def is_complete(self) -> bool:
    """True if all facts are known."""
    return None not in dataclasses.astuple(self)

  def or_else(self, other: DataFacts) -> DataFacts:
    """Returns these facts, with gaps filled from `other`."""
    mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
    return DataFacts(**{name: theirs[name] if value is None else value for name, value in mine.items()})


def facts_in_config(data: Data) -> DataFacts:
  """Returns what the config specifies about images."""
  return DataFacts(data.num_examples, data.num_classes, image_size_of(data))


def facts_of_source(data: Data, runtime: Runtime) -> DataFacts:
  """Returns what the source holds, whatever the config specifies.

  Raises:
    DataError: the source cannot be opened.
  """
  source = runtime.open(data)
  size = image_size_of(data)
  return DataFacts(len(source), len(source.classes), runtime.image_shape(data)[0] if size is None else size)


@dataclasses.dataclass(frozen=True)
class Training:
  """A training, or other work on gradients, whose steps, parameters and memory can be reported.

  Attributes:
    data: the images that it learns from.
    experiment: makes the experiment from the known facts about the images.
    has_model: whether the model is known; False if the checkpoint that defines it is missing.
    known: further facts about the images, which take precedence over those in their own config.
    at: name of the training in error messages; they show no name if it is empty.
    traced: checks the program and the shapes of its first state, once the size of the images is known.
    times: number of repeats in a cell.
    is_shared: whether it is done once for all seeds of an arm.
    is_listed: False for repeats of a listed training, such as trials of learning rates.
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
    """Returns what is known without opening the data."""
    return self.known.or_else(facts_in_config(self.data))

  def facts(self, runtime: Runtime) -> DataFacts:
    """Returns what is known about the images; opens the data if anything is unknown.

    Raises:
      DataError: the source cannot be opened.
    """
    found = self.facts_in_config()
    return found if found.is_complete else found.or_else(facts_of_source(self.data, runtime))

  def rehearse(self, known: DataFacts, mesh: Any) -> None:
    """Creates all components of the training; traces its first step if model and image size are known.

    Raises:
      ConfigError: a component refuses its keywords, the model, or the parameters that it is to work on.
    """
    if not self.has_model:
      made = self.experiment(known)
      context: dict[str, Any] = dict(total_steps=ANY_LENGTH, steps_per_epoch=1, blocks=(), mesh=None)
      made.task.realize(num_classes=SOME_CLASSES if known.num_classes is None else known.num_classes)
      made.optimizer.realize(**context)
      made.gradient.realize(**context)
      return
    program, state = self.traced_at(known, mesh)
    if self.traced is not None and state is not None:
      self.traced(program, state)

  def traced_at(self, known: DataFacts, mesh: Any) -> tuple[Program, TrainState | None]:
    """Returns the program, and the shapes of its first state, or None if the image size is not known."""
    return experiments.rehearse(
      self.experiment(known),
      num_classes=SOME_CLASSES if known.num_classes is None else known.num_classes,
      num_examples=known.num_examples,
      image_size=known.image_size,
      mesh=mesh,
    )

  def check_data(self, runtime: Runtime) -> None:
    """Opens the data; refuses evaluation sets with other classes and a schedule that does not fit the length.

    Raises:
      ConfigError, DataError: the data cannot be opened, or one of these is refused.
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
    """Returns the image passes of all repeats, for the estimate of the time left."""
    found = self.known.or_else(DataFacts(len(runtime.open(self.data))))
    assert found.num_examples is not None
    return self.times * image_passes(self.experiment(found), found.num_examples)


@dataclasses.dataclass(frozen=True)
class Images:
  """A line of `jaxtl check` about images.

  Attributes:
    parts: pairs of a text, with `{}` for the number of images, and the images, such as ("{} train", data).
    label: what the images belong to, such as the name of a task.
    more: further texts.
    missing: missing files other than the images; each gets a line.
    check: a check that needs the opened images.
  """

  parts: Sequence[tuple[str, Data]]
  label: str = ""
  more: Sequence[str] = ()
  missing: Sequence[str] = ()
  check: Callable[[], object] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything that a study will open, train and measure.

  Attributes:
    starts: path in the config -> path on the disk, for each checkpoint that the study starts from.
    trainings: name -> training.
    lines: what `jaxtl check` lists before the trainings: images, and pairs of a heading and a text. A text
      may be a function that opens data; its line is left out if the data are missing.
    same_classes: (place for messages, images, images that must have the same class list).
    measurements: name -> function that returns the image passes of a measurement, called with open data.
    checks: further checks that the study defines, called once data and checkpoints are open.
  """

  starts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  trainings: Mapping[str, Training] = dataclasses.field(default_factory=dict)
  lines: Sequence[Images | tuple[str, str | Callable[[], str]]] = ()
  same_classes: Sequence[tuple[str, Data, Data]] = ()
  measurements: Mapping[str, Callable[[], float]] = dataclasses.field(default_factory=dict)
  checks: Sequence[Callable[[], object]] = ()

  @property
  def images(self) -> list[Images]:
    """The lines that are about images."""
    return [line for line in self.lines if isinstance(line, Images)]

  def cell_passes(self, runtime: Runtime) -> float:
    """Returns the image passes of one cell, for the estimate of the time left; opens the data."""
    trained = [one for one in self.trainings.values() if one.takes_steps and not one.is_shared]
    measured = sum(measure() for measure in self.measurements.values())
    return measured + sum(training.passes(runtime) for training in trained)

  def shared_passes(self, runtime: Runtime) -> float:
    """Returns the image passes that the seeds of an arm share."""
    return sum(one.passes(runtime) for one in self.trainings.values() if one.is_shared)


def plan_of(rows: Callable[..., Any], study: Any, runtime: Runtime) -> Plan:
  """Returns the plan that the module of a study's `rows` makes.

  If the module makes none, the plan of an experiment is its training, and that of any other study is empty.

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
  """Returns the checkpoint that a study starts from, or None if it does not exist yet.

  Raises:
    CheckpointError, StorageError: it exists, but `checkpoint.load` refuses it.
  """
  try:
    checkpoint.find(path)
  except CheckpointError:
    return None
  return checkpoint.load(path)
