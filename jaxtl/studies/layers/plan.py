"""What a layers study is made of, and what is refused of it before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxtl import weights as weights_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data.class_names import same_classes
from jaxtl.errors import ConfigError, StorageError
from jaxtl.measure.layer_diagnosis import Diagnosis
from jaxtl.measure.passes import FORWARD, GRADIENT
from jaxtl.runner.plan import Extent, Training
from jaxtl.studies.layers import stages
from jaxtl.studies.layers.settings import BASE, Layers, Method, check_apart
from jaxtl.train import experiment, prefix_cache
from jaxtl.train.experiment import Experiment, make_model
from jaxtl.train.image_size import at_size, image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.post_training import PostTraining
from jaxtl.train.runtime import Runtime
from jaxtl.train.step import init_model

# Forward passes over the images of a diagnosis of eleven layers, ResNet-20's (docs/layers.md): with their
# inputs kept, and without.
_FORWARDS = {True: 55, False: 95}


def rehearse(study: Layers, runtime: Runtime) -> None:
  """Makes and traces the base run and every method whose layers are known."""
  facts: dict[str, Any] = dict(num_examples=None, mesh=runtime.mesh)
  for data in (study.data, study.validation, study.test):
    for spec in (*data.transforms, *data.batch_transforms):
      spec.realize()
  if study.base is not None:
    model = study.base.model
    classes = study.base.data.num_classes or experiment.SOME_CLASSES
    experiment.rehearse(study.base, num_classes=classes, image_size=image_size_of(study.base.data), **facts)
  elif Path(str(study.start)).exists():
    start = checkpoint.load(str(study.start))
    model, classes = start.model_spec(trust=runtime.trust), len(start.classes)
  else:
    return
  size = image_size_of(study.data) or image_size_of(study.test)
  for tuned in _methods(study, model, num_classes=classes).values():
    experiment.rehearse(tuned, num_classes=classes, image_size=size, **facts)
  _check_parts(study, model, runtime, num_classes=classes, image_size=size)


def _methods(
  study: Layers, model: Spec, *, num_classes: int, image_size: int | None = None
) -> dict[str, Experiment]:
  """Every method as an experiment on a model; for layers that a diagnosis will choose, some others."""
  made = make_model(model, num_classes=num_classes)
  if study.diagnosis is not None and not made.blocks:
    raise ConfigError(
      f"{made.name} has no blocks, so that there are no layers to diagnose; leave diagnosis out"
    )
  found = {}
  for name, method in study.methods.items():
    # The last block but one, or the only one.
    chosen: dict[str, Any] = (
      dict(perturb=[made.blocks[-1]], update=[made.blocks[-2:][0]]) if method.diagnosed else {}
    )
    settings = PostTraining(
      study.task, study.data, study.optimizer, epochs=study.epochs, gradient=method.gradient
    )
    found[name] = settings.experiment(model, image_size=image_size, **chosen)
  return found


def _check_parts(
  study: Layers,
  model: Spec,
  runtime: Runtime,
  *,
  num_classes: int,
  image_size: int | None,
  opened: bool = False,
) -> None:
  """Refuses layers that a model does not have, and caches that cannot be, as far as the image size is known.

  Args:
    opened: also whether caches fit: the data are there.
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
  """Whether a cache is legal and, with a runtime, fits."""
  # What the layers that a diagnosis will choose need is not known yet, nor is the run's folder.
  unknown = method.diagnosed or (method.cache.where == "memmap" and method.cache.folder is None)
  try:
    prefix_cache.check_legal(method.cache, program, state, data)
    if runtime is not None and not unknown:
      prefix_cache.check_room(method.cache, program, state, data, runtime)
  except (ConfigError, StorageError) as error:
    raise type(error)(f"methods.{name}.cache: {error}") from error


def extent(study: Layers, runtime: Runtime) -> Extent:
  """The images, the base run and every method."""
  found = Extent()
  begin = study.start if study.base is None else study.base.start
  start = None if begin is None else found.start(begin, trust=runtime.trust)
  parts = {"train": study.data, "validation": study.validation, "test": study.test}
  sizes = [f"{found.images(data, runtime)} {part}" for part, data in parts.items()]
  if study.diagnosis is not None:
    sizes.append(f"{study.diagnosis.num_examples} for the diagnosis")
  found.lines.append(("images", ", ".join(sizes)))
  if study.base is not None:
    found.trainings[BASE] = Training(study.base, found.facts(study.base.data, runtime))
    model = study.base.model
  elif start is not None:
    model = start.model_spec(trust=runtime.trust)
  else:
    return found
  known = found.facts(study.data, runtime)
  classes = experiment.SOME_CLASSES if known is None else known.num_classes
  size = None if known is None else known.image_size
  _check_parts(study, model, runtime, num_classes=classes, image_size=size)
  for name, tuned in _methods(study, model, num_classes=classes, image_size=size).items():
    found.trainings[name] = Training(tuned, known)
  for name, method in study.methods.items():
    if method.rediagnose_every is not None:
      count = "" if known is None else f", {_num_parts(study, method, known.num_examples)} parts in all"
      found.lines.append(("diagnosis", f"{name}: again every {method.rediagnose_every:g} epochs{count}"))
  return found


def check_data(study: Layers, runtime: Runtime) -> None:
  """Refuses a checkpoint that is not there or was trained on held-out images, parts with different classes,
  and layers and caches that cannot be."""
  start = None if study.start is None else checkpoint.load(study.start)
  if start is not None:
    check_apart(study, _learned(start))
  classes = runtime.open(study.data).classes
  for name in ("validation", "test"):
    same_classes(classes, runtime.open(getattr(study, name)).classes, at=name)
  if study.base is not None:
    same_classes(classes, runtime.open(study.base.data).classes, at="base.data")
    experiment.check_schedule(study.base, runtime)
  size = runtime.image_shape(study.data)[0]
  if start is not None:
    model = start.model_spec(trust=runtime.trust)
  else:
    assert study.base is not None  # the study has checked it
    model = study.base.model
  for tuned in _methods(study, model, num_classes=len(classes), image_size=size).values():
    experiment.check_schedule(tuned, runtime)
  _check_parts(study, model, runtime, num_classes=len(classes), image_size=size, opened=True)


def _learned(start: Weights) -> dict[str, Any]:
  """The source of the images that a checkpoint was trained on, as it has it; none where it does not say."""
  data = (start.config.get("experiment") or {}).get("data") or {}
  return {f"the training of {start.path}": data["source"]} if "source" in data else {}


def work(study: Layers, runtime: Runtime) -> float:
  """Image passes of the base run, of all methods and roughly of all diagnoses, for the time left."""
  passes = sum(method_work(study, name, runtime) for name in study.methods)
  if study.base is not None and study.base.epochs is not None:
    passes += study.base.epochs * len(runtime.open(study.base.data)) * experiment.work_per_image(study.base)
  return passes + (0.0 if study.diagnosis is None else diagnosis_work(study.diagnosis))


def method_work(study: Layers, name: str, runtime: Runtime) -> float:
  """Image passes of a method, with its later diagnoses."""
  method, num_examples = study.methods[name], len(runtime.open(study.data))
  passes = experiment.work_of(method.gradient) * study.epochs * num_examples
  if study.diagnosis is None:
    return passes
  return passes + (_num_parts(study, method, num_examples) - 1) * diagnosis_work(study.diagnosis)


def diagnosis_work(diagnosis: Diagnosis) -> float:
  """About how many image passes a diagnosis costs; how many layers there are is not known before."""
  return round(diagnosis.num_examples * (GRADIENT + _FORWARDS[diagnosis.cache] * FORWARD))


def _num_parts(study: Layers, method: Method, num_examples: int) -> int:
  size: Any = dict(num_examples=num_examples, batch_size=study.data.batch_size)
  return len(stages.ends(study.epochs, method.rediagnose_every, **size))
