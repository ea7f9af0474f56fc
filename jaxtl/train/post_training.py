"""Post-training of a checkpoint by PoF or PoL: an experiment whose model and start are the checkpoint's."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxtl import optim
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data.class_names import same_classes
from jaxtl.errors import ConfigError
from jaxtl.train import training
from jaxtl.train.experiment import REPLICATE, Experiment, Program, check_length
from jaxtl.train.image_size import at_size
from jaxtl.train.inputs import Data
from jaxtl.train.loop import Observer
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.runtime import Runtime

POF = Spec(".optim.pof", "make", {}, optim.pof)
Names = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class PostTraining:
  """The settings for the post-training of a trained network.

  Attributes:
    task, data, optimizer, evaluation, sharding, on_nonfinite: as in `Experiment`. The recipe of PoL is
      Nesterov momentum 0.9, weight decay 5e-4 and the last learning rate of the training before.
    epochs, steps: the length, as in `Experiment`.
    gradient: makes the rule: `.optim.pof`, `.optim.pol`, or any other, which moves the whole network.
    cache: whether hidden states are cached; "auto" caches them if nothing is augmented.
    log_every, evaluate_every, checkpoint_every, keep: as in `Experiment`.
  """

  task: Spec
  data: Data
  optimizer: Spec
  epochs: float | None = 10.0
  gradient: Spec = POF
  evaluation: Mapping[str, Data] = dataclasses.field(default_factory=dict)
  cache: PrefixCache = dataclasses.field(default_factory=PrefixCache)
  log_every: int = 20
  evaluate_every: int | None = None
  checkpoint_every: int | None = None
  keep: int = 2
  on_nonfinite: str = "abort"
  sharding: Spec = REPLICATE
  steps: int | None = None

  def __post_init__(self) -> None:
    check_length(self.epochs, self.steps)

  def experiment(
    self, model: Spec, *, perturb: Names = None, update: Names = None, image_size: int | None = None
  ) -> Experiment:
    """Returns the settings as an experiment on a model; arguments as in `post_train`.

    Raises:
      ConfigError: layers are named, and the rule has no keyword for them.
    """
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    del fields["cache"]
    fields["gradient"] = _named(self.gradient, perturb, update)
    return Experiment(model=at_size(model, image_size), **fields)


def post_train(
  settings: PostTraining,
  start: Weights,
  *,
  seed: int,
  runtime: Runtime,
  perturb: Names = None,
  update: Names = None,
  workdir: Path | None = None,
  observers: Mapping[str, tuple[int | None, Callable[[Program], Observer]]] | None = None,
) -> training.Trained:
  """Post-trains a part of a trained network, or resumes where an earlier call was stopped.

  Args:
    start: the network, with its head: the data must have its classes.
    seed: of the order of the data, the weak batches and all noise.
    perturb, update: names of layers, for the keywords of the rule with these names; None leaves the rule's
      own.
    workdir, observers: as in `train.run`.

  Returns:
    As `train.run`; parameters outside `update` are bit for bit those of `start`.

  Raises:
    ConfigError: the model does not have a named layer, or the cache is not legal or does not fit.
    DataError: the classes of the data are not those of `start`.
    As `train.run`.
  """
  same_classes(start.classes, runtime.open(settings.data).classes, at="data")
  experiment = settings.experiment(
    start.model_spec(trust=runtime.trust),
    perturb=perturb,
    update=update,
    image_size=runtime.image_shape(settings.data)[0],
  )
  return training.run(
    experiment,
    seed=seed,
    runtime=runtime,
    workdir=workdir,
    # Takes the data's names for the same classes, since `same_classes` also matches WordNet ids.
    start=dataclasses.replace(
      start, config={**start.config, "classes": list(runtime.open(settings.data).classes)}
    ),
    cache=settings.cache,
    observers=observers,
  )


def _named(gradient: Spec, perturb: Names, update: Names) -> Spec:
  """Returns the spec of the rule with the named layers."""
  named = {name: value for name, value in (("perturb", perturb), ("update", update)) if value is not None}
  for name in named:
    if name not in inspect.signature(gradient.target).parameters:
      raise ConfigError(f"{gradient.path} has no {name!r}, so its layers cannot be set; write .optim.pol")
  return dataclasses.replace(gradient, keywords={**gradient.keywords, **named})
