"""The plan of a layers study: the base run, the methods, and the checks before anything is trained."""

from __future__ import annotations

import functools
from typing import Any

import jax

from jaxtl import weights as weights_lib
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import ConfigError, StorageError
from jaxtl.measure.layer_diagnosis import Diagnosis
from jaxtl.measure.passes import FORWARD, GRADIENT
from jaxtl.runner.plan import DataFacts, Images, Plan, Training, existing_start
from jaxtl.studies.layers import stages
from jaxtl.studies.layers.settings import BASE, Layers, Method, check_apart
from jaxtl.train import experiment, prefix_cache
from jaxtl.train.experiment import PLAIN, Experiment, image_passes, make_model
from jaxtl.train.image_size import at_size, image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.post_training import PostTraining
from jaxtl.train.runtime import Runtime
from jaxtl.train.step import init_model

# Forward passes over the images of a diagnosis of eleven layers, as in ResNet-20 (docs/layers.md), with the
# inputs of the layers cached (True) and without.
_FORWARDS = {True: 55, False: 95}


def plan(study: Layers, runtime: Runtime) -> Plan:
  """Plans the base run, the diagnosis and every method.

  Raises:
    ConfigError: the task is not a classification, whose error and calibration every method reports.
  """
  if study.task.realize(num_classes=experiment.SOME_CLASSES).loss is None:
    raise ConfigError(
      f"task is {study.task.path}; a layers study reports error and calibration, so write a classification "
      "(for example .tasks.classification)"
    )
  begin = study.start if study.base is None else study.base.start
  start = None if begin is None else existing_start(begin)
  parts = [("{} train", study.data), ("{} validation", study.validation), ("{} test", study.test)]
  more = [] if study.diagnosis is None else [f"{study.diagnosis.num_examples} for the diagnosis"]
  again = {name: method.rediagnose_every for name, method in study.methods.items() if method.rediagnose_every}
  same = [(name, study.data, getattr(study, name)) for name in ("validation", "test")]
  if study.base is not None:
    same.append(("base.data", study.data, study.base.data))
  model = _model(study, start, runtime)
  check = None if model is None else functools.partial(_check_layers, study, model, runtime)
  return Plan(
    starts={} if begin is None else {"start": begin},
    lines=[
      Images(parts, more=more, check=check),
      *(
        ("diagnosis", functools.partial(_diagnosed_again, study, name, every, runtime))
        for name, every in again.items()
      ),
    ],
    same_classes=same,
    trainings=_trainings(study, start, model, runtime),
    measurements={
      name: functools.partial(diagnosis_passes, study, name, runtime)
      for name in (BASE, *study.methods)
      if study.diagnosis is not None
    },
    checks=[lambda: _check(study, start, model, runtime)],
  )


def _diagnosed_again(study: Layers, name: str, every: float, runtime: Runtime) -> str:
  count = _num_parts(study, study.methods[name], len(runtime.open(study.data)))
  return f"{name}: again every {every:g} epochs, {count} parts in all"


def _model(study: Layers, start: Weights | None, runtime: Runtime) -> Spec | None:
  """Returns the model that the methods train; None if its checkpoint is missing."""
  if study.base is not None:
    return study.base.model
  return None if start is None else start.model_spec(trust=runtime.trust)


def _trainings(
  study: Layers, start: Weights | None, model: Spec | None, runtime: Runtime
) -> dict[str, Training]:
  """Returns the base run, and the methods if their model is known."""
  found: dict[str, Training] = {}
  base, classes = study.base, None if start is None else len(start.classes)
  if base is not None:
    found[BASE] = Training(base.data, lambda facts: base)
    classes = base.data.num_classes
  if model is None:
    return found
  size = image_size_of(study.data) or image_size_of(study.test)
  known = DataFacts(num_classes=classes, image_size=size)
  _check_parts(study, model, runtime, num_classes=classes or experiment.SOME_CLASSES, image_size=size)
  for name in study.methods:
    found[name] = Training(study.data, functools.partial(_method, study, model, name), known=known)
  return found


def _method(study: Layers, model: Spec, name: str, known: DataFacts) -> Experiment:
  classes = known.num_classes or experiment.SOME_CLASSES
  return _methods(study, model, num_classes=classes, image_size=known.image_size)[name]


def _methods(
  study: Layers, model: Spec, *, num_classes: int, image_size: int | None = None
) -> dict[str, Experiment]:
  """Returns every method as an experiment, with placeholders for layers that a diagnosis will choose."""
  made = make_model(model, num_classes=num_classes)
  if study.diagnosis is not None and not made.blocks:
    raise ConfigError(
      f"{made.name} has no blocks, so that there are no layers to diagnose; leave diagnosis out"
    )
  found = {}
  for name, method in study.methods.items():
    # Placeholders: the last block, and the last but one, which is the same if there is only one.
    chosen: dict[str, Any] = (
      dict(perturb=[made.blocks[-1]], update=[made.blocks[-2:][0]]) if method.diagnosed else {}
    )
    found[name] = _settings(study, method).experiment(model, image_size=image_size, **chosen)
  return found


def _settings(study: Layers, method: Method) -> PostTraining:
  return PostTraining(study.task, study.data, study.optimizer, epochs=study.epochs, gradient=method.gradient)


def _check_parts(
  study: Layers,
  model: Spec,
  runtime: Runtime,
  *,
  num_classes: int,
  image_size: int | None,
  opened: bool = False,
) -> None:
  """Refuses layers that a model does not have and illegal caches; checks nothing without an image size.

  Args:
    opened: whether the data can be opened, so that the size of caches is checked as well.
  """
  if image_size is None:
    return
  if study.diagnosis is not None:
    made = make_model(at_size(model, image_size), num_classes=num_classes)
    shape = (image_size, image_size, 3)
    params, _ = jax.eval_shape(lambda: init_model(made, jax.random.key(0), shape))
    try:
      weights_lib.layer_groups(made, params, groups=study.diagnosis.groups)
    except ConfigError as error:
      raise ConfigError(f"diagnosis.groups: {error}") from error
  facts: Any = dict(num_classes=num_classes, num_examples=None, mesh=runtime.mesh)
  for name, tuned in _methods(study, model, num_classes=num_classes, image_size=image_size).items():
    method = study.methods[name]
    if method.cache.where not in ("none", "auto"):
      rehearsed = experiment.rehearse(tuned, image_size=image_size, **facts)
      _check_cache(name, method, study.data, *rehearsed, runtime if opened else None)


def _check_cache(
  name: str, method: Method, data: Data, program: Any, state: Any, runtime: Runtime | None
) -> None:
  """Checks that a cache is legal and, if a runtime is given, that it fits."""
  # The layers that a diagnosis will choose, and so their cache, are not known yet, nor is the run's folder.
  unknown = method.diagnosed or (method.cache.where == "memmap" and method.cache.folder is None)
  try:
    prefix_cache.check_legal(method.cache, program, state, data)
    if runtime is not None and not unknown:
      prefix_cache.check_room(method.cache, program, state, data, runtime)
  except (ConfigError, StorageError) as error:
    raise type(error)(f"methods.{name}.cache: {error}") from error


def _check(study: Layers, start: Weights | None, model: Spec | None, runtime: Runtime) -> None:
  """Refuses a checkpoint that was trained on held-out images, missing layers, and impossible caches."""
  assert model is not None  # its checkpoint has been opened
  if study.base is None and start is not None:
    check_apart(study, _learned(start))
  _check_layers(study, model, runtime, has_room=True)


def _check_layers(study: Layers, model: Spec, runtime: Runtime, *, has_room: bool = False) -> None:
  """Refuses layers and caches that do not fit the images; with `has_room`, also caches without room."""
  size, classes = runtime.image_shape(study.data)[0], len(runtime.open(study.data).classes)
  _check_parts(study, model, runtime, num_classes=classes, image_size=size, opened=has_room)


def _learned(start: Weights) -> dict[str, Any]:
  """Returns the source of the images that a checkpoint was trained on; empty if it has no record of it."""
  data = (start.config.get("experiment") or {}).get("data") or {}
  return {f"the training of {start.path}": data["source"]} if "source" in data else {}


def method_passes(study: Layers, name: str, runtime: Runtime) -> float:
  """Returns the image passes of a method, including its later diagnoses."""
  settings = _settings(study, study.methods[name])
  trained = image_passes(settings.experiment(PLAIN), len(runtime.open(study.data)))
  return trained + (0.0 if study.diagnosis is None else diagnosis_passes(study, name, runtime))


def diagnosis_passes(study: Layers, name: str, runtime: Runtime) -> float:
  """Returns the image passes of the diagnosis of the base network, or of the later ones of a method."""
  assert study.diagnosis is not None
  if name == BASE:
    return diagnosis_work(study.diagnosis)
  parts = _num_parts(study, study.methods[name], len(runtime.open(study.data)))
  return (parts - 1) * diagnosis_work(study.diagnosis)


def diagnosis_work(diagnosis: Diagnosis) -> float:
  """Estimates the image passes of a diagnosis, since the number of layers is not known in advance."""
  return round(diagnosis.num_examples * (GRADIENT + _FORWARDS[diagnosis.cache] * FORWARD))


def _num_parts(study: Layers, method: Method, num_examples: int) -> int:
  size: Any = dict(num_examples=num_examples, batch_size=study.data.batch_size)
  return len(stages.ends(study.epochs, method.rediagnose_every, **size))
