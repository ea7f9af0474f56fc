"""A checkpoint that is ready to look at images: its network, its classes and its preprocessing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import data as data_lib
from jaxtl.checkpoints import checkpoint
from jaxtl.config import Spec
from jaxtl.data.bad_records import BadRecords
from jaxtl.errors import ConfigError, DataError, InputError, NonFiniteError, listed
from jaxtl.inference.batches import ahead, padded, padded_size
from jaxtl.inference.decoding import UnreadableError
from jaxtl.inference.inputs import Input, inputs_of
from jaxtl.inference.prediction import Prediction
from jaxtl.inference.preprocess import Preprocess
from jaxtl.measure import prepared
from jaxtl.train.image_size import fitted
from jaxtl.types import Array, Model, Params

# A prepared image, or why it cannot be read.
_Row = np.ndarray | UnreadableError
_FIELDS = {field.name for field in dataclasses.fields(data_lib.Preprocessing)}


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A network with everything that its use needs; see `load`.

  Attributes:
    model: the network as pure functions.
    params, batch_stats: its arrays, on the device.
    classes: the class names in the order of the logits; empty without a classifier.
    preprocess: what `jaxtl eval` does to an image before the network.
    spec, task: the specs of the network, and of the task that it was trained on.
    path: the step that was loaded.
  """

  model: Model
  params: Params
  batch_stats: Params
  classes: tuple[str, ...]
  preprocess: Preprocess
  spec: Spec
  task: Spec
  path: str

  def predict(self, images: Any, *, batch_size: int = 32, max_bad_records: int = 0) -> list[Prediction]:
    """Classifies images.

    Args:
      images: one or several of: paths of images, folders of images at any depth, Pillow images, and arrays
        [H, W], [H, W, C] or [B, H, W, C]. Arrays hold pixels: uint8, floats from 0 to 255, or 16 bits.
      batch_size: the most images per call of the network.
      max_bad_records: unreadable files that are left out of the result before it stops.

    Returns:
      One prediction per image, in order, named after its file.

    Raises:
      InputError: the checkpoint has no classifier, or the images are of an unknown kind.
      DataError: a file is missing, more files than allowed are unreadable, or the images do not have the size
        that the model needs.
      NonFiniteError: a logit is not finite.
    """
    return list(
      self.stream(inputs_of(images), batch_size=batch_size, bad_records=BadRecords(max_bad_records))
    )

  def stream(
    self, inputs: Sequence[Input], *, batch_size: int = 32, bad_records: BadRecords | None = None
  ) -> Iterator[Prediction]:
    """Yields the predictions of `predict` as they are computed, while later images are read.

    Args:
      inputs: the images, from `inputs_of`.
      batch_size: as in `predict`.
      bad_records: the budget of unreadable files; None stops at the first.

    Raises: as `predict`.
    """
    self.check_classifier()
    bad_records = BadRecords() if bad_records is None else bad_records
    for found, outputs in self._outputs(inputs, ("logits", "probabilities"), batch_size, bad_records):
      finite = np.isfinite(outputs["logits"]).all(axis=-1)
      if not finite.all():
        first = found[int(np.argmin(finite))].name
        raise NonFiniteError(f"{self.path} has no finite logits for {first}")
      for row, each in enumerate(found):
        yield Prediction(each.name, self.classes, outputs["logits"][row], outputs["probabilities"][row])

  def features(
    self, images: Any, *, names: Sequence[str] | None = None, batch_size: int = 32
  ) -> dict[str, np.ndarray]:
    """Computes the features of images, with the stored statistics.

    Args:
      images, batch_size: as in `predict`.
      names: which features, such as `pooled`; None computes all: `stage1` and so on, `pooled`, and `logits`
        if there is a classifier.

    Returns:
      name -> array [N, ...], one row per image, in order.

    Raises:
      InputError: the model has no feature of a given name, or there are no images.
      DataError: as in `predict`; no unreadable file is allowed.
    """
    chosen = self.feature_names if names is None else tuple(names)
    for name in chosen:
      if name not in self.feature_names:
        raise InputError(f"{self.model.name} has no feature {name!r}; it has {listed(self.feature_names)}")
    inputs = inputs_of(images)
    if not inputs:
      raise InputError("expected at least one image, got none (for example features(['a.jpg']))")
    parts = [outputs for _, outputs in self._outputs(inputs, chosen, batch_size, BadRecords())]
    return {name: np.concatenate([part[name] for part in parts]) for name in chosen}

  @functools.cached_property
  def feature_names(self) -> tuple[str, ...]:
    """The names of the features that the model computes."""
    image = jax.ShapeDtypeStruct((1, *self.preprocess.image_shape, 3), jnp.float32)
    return tuple(jax.eval_shape(self.model.apply, self.params, self.batch_stats, image)[0])

  def check_classifier(self) -> None:
    """Raises InputError if the checkpoint cannot classify."""
    if not self.classes:
      raise InputError(f"{self.path} has no classifier; transfer it to your classes, or train one")
    if self.task.realize(num_classes=len(self.classes)).loss is None:
      raise InputError(f"{self.path} was trained on {self.task.path}; expected a classification")

  def _outputs(
    self, inputs: Sequence[Input], names: tuple[str, ...], batch_size: int, bad_records: BadRecords
  ) -> Iterator[tuple[list[Input], dict[str, np.ndarray]]]:
    """Yields the readable images of each batch with their outputs, without the padding."""
    if batch_size < 1:
      raise InputError(f"expected a positive batch_size, got {batch_size} (for example 32)")
    size = padded_size(len(inputs), batch_size)
    numbered = list(enumerate(inputs))
    waiting: tuple[list[Input], dict[str, Array]] | None = None
    for number, rows in enumerate(ahead(self._prepared, numbered, size=size)):
      found, images = [], []
      for (position, each), row in zip(numbered[number * size :], rows, strict=False):
        if isinstance(row, UnreadableError):
          bad_records.add("images", position, where=each.name, reason=str(row))
        else:
          found.append(each)
          images.append(row)
      # Read one batch late: the host prepares images while the device computes.
      if waiting is not None:
        yield _without_padding(*waiting)
      waiting = (found, self._compute(images, size, names)) if found else None
    if waiting is not None:
      yield _without_padding(*waiting)

  def _prepared(self, numbered: tuple[int, Input]) -> _Row:
    position, each = numbered
    try:
      return self.preprocess(each.raw(self.preprocess), position=position)
    except UnreadableError as error:
      return error
    except DataError as error:
      raise DataError(f"{each.name}: {error}") from error

  def _compute(self, images: Sequence[np.ndarray], size: int, names: tuple[str, ...]) -> dict[str, Array]:
    return self._forward(names)(self.params, self.batch_stats, padded(images, size))

  @functools.cached_property
  def _forward(self) -> Callable[[tuple[str, ...]], Callable[..., dict[str, Array]]]:
    """Returns names -> the jitted network that returns these; one program per choice and shape."""

    @functools.cache
    def make(names: tuple[str, ...]) -> Callable[..., dict[str, Array]]:
      def forward(params: Params, batch_stats: Params, images: Array) -> dict[str, Array]:
        features, _ = self.model.apply(params, batch_stats, images)
        if "probabilities" in names:
          features = {**features, "probabilities": jax.nn.softmax(features["logits"].astype(jnp.float32))}
        return {name: features[name] for name in names}

      return jax.jit(forward)

    return make


def load(
  path: str | Path,
  *,
  size: int | None = None,
  preprocessing: dict[str, Any] | None = None,
  trust: bool = False,
) -> Loaded:
  """Loads a checkpoint for inference: `load("runs/NAME/ARM/SEED").predict(["a.jpg"])`.

  Args:
    path: the folder of one arm and seed, one step inside, or an import.
    size: side of the images in pixels, which replaces the checkpoint's own.
    preprocessing: fields of `data.Preprocessing` that replace the checkpoint's own, such as
      `dict(interpolation="bicubic")`.
    trust: imports names in the checkpoint outside jaxtl and optax.

  Raises:
    CheckpointError: there is no checkpoint at the path, or it is damaged.
    InputError: it is not a model of images, or its preprocessing is unknown or cannot be changed.
    ConfigError: the model refuses the size, or `preprocessing` has an unknown field.
  """
  weights = checkpoint.load(path)
  if len(weights.config["image_shape"]) != 3:
    raise InputError(f"{weights.path} is not a model of images; expected an image model or tower")
  changes = {**(preprocessing or {}), **({} if size is None else {"size": size})}
  if unknown := sorted(set(changes) - _FIELDS):
    raise ConfigError(f"preprocessing has no {unknown[0]!r}; expected some of {', '.join(sorted(_FIELDS))}")
  transforms, shape = prepared.preprocessing_of(weights, changes, trust=trust)
  spec, task = weights.model_spec(trust=trust), prepared.task_of(weights, trust=trust)
  model, params = fitted(spec, weights, shape[0])
  params, batch_stats = jax.device_put((params, weights.batch_stats))
  preprocess = Preprocess(transforms, shape)
  return Loaded(model, params, batch_stats, weights.classes, preprocess, spec, task, weights.path)


def _without_padding(
  found: list[Input], outputs: dict[str, Array]
) -> tuple[list[Input], dict[str, np.ndarray]]:
  return found, {name: np.asarray(values)[: len(found)] for name, values in outputs.items()}
