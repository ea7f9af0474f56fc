"""Sources of training data: ordered images and their targets, which for classification are labels.

A source has random access and never changes. Its images are pixels in memory (`np.ndarray`, or `Deferred`
pixels that are made on first use), encoded files in memory (`Encoded`), or files on disk (`Files`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.names import shown
from jaxtl.data.sources.storage import Deferred, Encoded, Files
from jaxtl.data.transforms import images as images_lib
from jaxtl.errors import DataError

DataDir = str | Path | None

# (shape, dtype) of a target of one example.
TargetSpec = tuple[tuple[int, ...], Any]
LABEL: dict[str, TargetSpec] = {"label": ((), np.dtype(np.int32))}
# The keys of a batch that are not targets of a source, besides `label`.
TAKEN = ("image", "label", "mask", "position", "index", "weak", "hidden", "label_b", "weight", "views")

# Without a class list, labels may exceed the number of images up to this limit, which admits a few images of
# ImageNet.
_UNNAMED_CLASSES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """Images with targets and random access.

  Attributes:
    name: shown in reports and errors, for example `tiny_imagenet_100/train`.
    classes: the class names; a label is an index into them. Empty for images without labels.
    labels: int32 [N]; zeros if there are no classes. `subset` and `part_of` draw evenly over them.
    images: N images: a uint8 [N, H, W, 3] array, `Deferred`, `Encoded` or `Files`.
    kind: "real" for measured images, "synthetic" for generated ones.
    left_out: unused files of its folder; a run lists them once.
    targets: further targets by name, arrays [N, ...], which a task may read from a batch.
    dropped: targets that its parts have and it lacks, by name, with the reason for error messages.

  Names and classes are stored as returned by `shown`: in NFC and printable.

  Raises:
    DataError: the numbers of images and targets differ, a label is not the index of a class, two classes have
      the same name, or a target has the name of another part of a batch.
  """

  name: str
  classes: tuple[str, ...]
  labels: np.ndarray
  images: np.ndarray | Encoded | Files | Deferred
  kind: str = "real"
  left_out: tuple[str, ...] = ()
  targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    object.__setattr__(self, "name", shown(self.name))
    if self.kind not in ("real", "synthetic"):
      raise DataError(f"{self.name}: kind is {self.kind!r}; expected 'real' or 'synthetic'")
    object.__setattr__(self, "classes", _distinct(self.classes, name=self.name))
    # Without classes all images are alike, as if they had one class that is not named.
    count = len(self.classes) or 1
    labels = checked_labels(self.labels, images=self.images, num_classes=count, name=self.name)
    object.__setattr__(self, "labels", labels)
    targets = checked_targets(self.targets, num_images=len(labels), name=self.name)
    object.__setattr__(self, "targets", targets)

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def target_specs(self) -> dict[str, TargetSpec]:
    """The targets of one example: name -> (shape, dtype)."""
    own = {name: (array.shape[1:], array.dtype) for name, array in self.targets.items()}
    return {**(LABEL if self.classes else {}), **own}

  @property
  def pixels(self) -> np.ndarray | None:
    """The uint8 [N, H, W, 3] array, or None if the images are encoded."""
    return self.images.array if isinstance(self.images, Deferred) else _array_or_none(self.images)

  def fetch(self, indices: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the images and the targets of the examples at `indices`.

    The images are uint8 [b, H, W, 3] pixels, [b] encoded images, or [b] paths if the source holds `Files`.
    The targets are arrays [b, ...] by name, as in `target_specs`.
    """
    label = {"label": self.labels[indices]} if self.classes else {}
    targets = {**label, **{name: array[indices] for name, array in self.targets.items()}}
    if isinstance(self.images, Encoded | Files):
      return self.images.payload(indices), targets
    return np.asarray(self.pixels)[indices], targets

  def where(self, index: int) -> str:
    """Returns how messages name one example: its number, and its file if there is one."""
    return describe(index, self.file_name(index))

  def file_name(self, index: int) -> str | None:
    """Returns the file of one example, relative to the source's folder, or None if it has no file."""
    return name_of(self.images, index)

  def read(self, index: int) -> np.ndarray:
    """Returns one image, decoded as in training: uint8 [H, W, 3].

    Raises:
      DataError: the image cannot be decoded.
    """
    image = self.images[index]
    return (
      image if isinstance(image, np.ndarray) else read_encoded(image, name=self.name, where=self.where(index))
    )

  def take(self, indices: np.ndarray, *, name: str | None = None) -> Source:
    """Returns a source of the examples at `indices`, in that order."""
    indices = np.asarray(indices, np.int64)
    images = self.images[indices] if isinstance(self.images, np.ndarray) else self.images.take(indices)
    targets = {key: array[indices] for key, array in self.targets.items()}
    return dataclasses.replace(
      self, name=name or self.name, labels=self.labels[indices], images=images, targets=targets
    )

  def fingerprint(self) -> str:
    """Returns 16 hexadecimal digits of a SHA-256 over class names, labels, images and further targets.

    `Files` contribute their names, sizes and sampled bytes.
    """
    digest = hashlib.sha256(json.dumps(self.classes).encode())
    digest.update(np.ascontiguousarray(self.labels, "<i4").data)
    if isinstance(self.images, Encoded | Files):
      for chunk in self.images.chunks():
        digest.update(len(chunk).to_bytes(8, "little") + chunk)
    else:
      pixels = np.asarray(self.pixels)
      digest.update(str(pixels.shape).encode())
      digest.update(np.ascontiguousarray(pixels).data)
    for name, array in self.targets.items():
      digest.update(f"{name} {array.dtype} {array.shape}".encode())
      digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def from_arrays(
  *,
  images: np.ndarray,
  labels: np.ndarray | None = None,
  classes: Sequence[str] | None = None,
  targets: Mapping[str, np.ndarray] | None = None,
  name: str = "arrays",
  kind: str = "real",
) -> Source:
  """Returns a source of pixels in memory.

  Args:
    images: uint8 [N, H, W, 3], or grayscale [N, H, W] or [N, H, W, 1], which is repeated to three channels.
    labels: [N] integers; None for images without classes, which have other targets.
    classes: class names; None names them "0", "1", ... up to the largest label.
    targets: further targets by name, arrays [N, ...].
    name: shown in reports.
    kind: "real" or "synthetic".

  Raises:
    DataError: the images have another type or shape, or the labels do not fit.
  """
  images = np.asarray(images)
  if images.dtype != np.uint8:
    raise DataError(f"{name}: images are {images.dtype}; give uint8 pixels from 0 to 255")
  images = three_channels(images, name=name)
  if labels is None:
    labels, classes = np.zeros(len(images), np.int32), ()
  elif classes is None:
    classes = numbered_classes([labels], name=name)
  return Source(
    name=name, classes=tuple(classes), labels=labels, images=images, kind=kind, targets=targets or {}
  )


def part_of(*, source: Source, start: float = 0.0, stop: float = 1.0, seed: int = 0) -> Source:
  """Returns the examples whose rank in a seeded shuffle of their class lies in [start, stop) of the class.

  Adjacent ranges are disjoint and together complete, so `stop=0.9` and `start=0.9` give a training part and
  a held-out part. The classes keep their proportions up to rounding.

  Args:
    source: a source with random access.
    start, stop: fractions of each class, 0 <= start < stop <= 1.
    seed: seed of the shuffle; parts are disjoint only if they share it.

  Raises:
    DataError: the range is not inside [0, 1], or holds no example.
  """
  _need_random_access(source, "part_of")
  if not 0 <= start < stop <= 1:
    raise DataError(f"part_of start={start:g}, stop={stop:g}: expected 0 <= start < stop <= 1")
  chosen = []
  for label in range(len(source.classes) or 1):
    members = np.flatnonzero(source.labels == label)
    members = np.random.default_rng([seed, label]).permutation(members)
    chosen.append(members[round(start * len(members)) : round(stop * len(members))])
  indices = np.sort(np.concatenate(chosen))
  if not len(indices):
    raise DataError(f"{source.name} has no example in [{start:g}, {stop:g}) of any class; widen the range")
  return source.take(indices, name=f"{source.name}[{start:g}:{stop:g}]")


def subset(*, source: Source, num_examples: int, seed: int = 0) -> Source:
  """Returns exactly `num_examples` examples, drawn evenly over the classes: one of each, then a second, ...

  Args:
    source: a source with random access.
    num_examples: number of examples; all if the source holds fewer.
    seed: seed of the draw.

  Raises:
    DataError: `num_examples` is below 1.
  """
  _need_random_access(source, "subset")
  if num_examples < 1:
    raise DataError(f"subset num_examples is {num_examples}; expected at least 1")
  turns = np.empty(len(source.labels), np.int64)
  for label in range(len(source.classes) or 1):
    members = np.flatnonzero(source.labels == label)
    turns[np.random.default_rng([seed, label]).permutation(members)] = np.arange(len(members))
  indices = np.sort(np.lexsort([source.labels, turns])[:num_examples])
  return source.take(indices, name=f"{source.name}[{len(indices)}]")


def numbered_classes(labels: Sequence[np.ndarray], *, name: str) -> list[str]:
  """Returns the class names "0", "1", ... up to the largest label of several arrays.

  Raises:
    DataError: the largest label is neither below 1000 nor below the number of labels.
  """
  # Labels that are not finite numbers are refused later, when the source is made.
  numbers = [array for array in map(np.asarray, labels) if array.dtype.kind in "iufb"]
  largest = [np.max(array.astype(np.float64), initial=-1, where=np.isfinite(array)) for array in numbers]
  most, count = max(largest, default=-1.0), sum(map(np.size, numbers))
  if most >= max(count, _UNNAMED_CLASSES):
    raise DataError(
      f"{shown(name)}: the largest label is {most:.0f}, for {count} images; expected labels from 0 on, "
      f"below {max(count, _UNNAMED_CLASSES)}; number the classes 0, 1, 2, ..., or write classes=[...]"
    )
  return [str(index) for index in range(1 + int(most))]


def need_two_classes(
  classes: Sequence[str], *, name: str, hint: str = "give data of several classes"
) -> None:
  """Raises DataError if there is a single class, from which nothing can be learned."""
  if len(classes) == 1:
    raise DataError(f"{shown(name)} has the single class {shown(classes[0])!r}; expected at least 2; {hint}")


def _need_random_access(source: Source, what: str) -> None:
  if not hasattr(source, "take"):
    raise DataError(
      f"{what} needs random access, and {source.name} is a stream of records; prepare it as array_record"
    )


def three_channels(images: np.ndarray, *, name: str) -> np.ndarray:
  """Expands images [N, H, W], [N, H, W, 1] or [N, H, W, 3] to [N, H, W, 3]."""
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise DataError(f"{name}: images have shape {images.shape}; expected [N, H, W] or [N, H, W, 3]")
  return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def read_encoded(encoded: bytes, *, name: str, where: str) -> np.ndarray:
  """Decodes one image to uint8 [H, W, 3]; raises DataError with its name and place if that fails."""
  try:
    return images_lib.decoded(encoded)
  except tf.errors.OpError as error:
    raise DataError(f"{name}: {where} cannot be read: {images_lib.damage(encoded)}") from error


def describe(index: int, name: str | None) -> str:
  return f"example {index}" if name is None else f"example {index} ({name})"


def name_of(images: Sequence | np.ndarray, index: int) -> str | None:
  return images.name(index) if isinstance(images, Encoded | Files) else None


def _array_or_none(images: Sequence | np.ndarray) -> np.ndarray | None:
  return images if isinstance(images, np.ndarray) else None


def _distinct(classes: Sequence[str], *, name: str) -> tuple[str, ...]:
  """Returns the class names in printable form; raises DataError if two of them are the same."""
  names = tuple(shown(entry) for entry in classes)
  if len(set(names)) < len(names):
    twice = next(entry for entry in names if names.count(entry) > 1)
    places = " and ".join(str(label) for label, entry in enumerate(names) if entry == twice)
    raise DataError(
      f"{name}: the class list names {twice!r} for the labels {places}; give each class a name of its own"
    )
  return names


def checked_targets(
  targets: Mapping[str, np.ndarray], *, num_images: int, name: str
) -> dict[str, np.ndarray]:
  """Returns the targets as read-only arrays.

  Raises:
    DataError: a name is that of another part of a batch, or there is not one target per image.
  """
  found = {}
  for key, array in targets.items():
    if key in TAKEN:
      raise DataError(f"{name}: a target is called {key!r}, which batches use; choose another name")
    array = np.asarray(array).view()  # read-only for the source, without a copy
    if array.ndim < 1 or len(array) != num_images:
      raise DataError(
        f"{name}: {num_images} images but {key!r} of shape {array.shape}; expected one entry per image"
      )
    array.setflags(write=False)
    found[key] = array
  return found


def checked_labels(
  labels: np.ndarray, *, images: Sequence | np.ndarray, num_classes: int, name: str
) -> np.ndarray:
  """Returns the labels as read-only int32 [N].

  Raises:
    DataError: there is not one label per image, or a label is not an integer from 0 to `num_classes` - 1.
  """
  labels = np.asarray(labels)
  if labels.ndim != 1 or len(labels) != len(images):
    raise DataError(
      f"{name}: {len(images)} images but labels of shape {labels.shape}; expected one label each"
    )
  if labels.dtype.kind not in "iufb":
    raise DataError(f"{name}: labels are {labels.dtype}; expected integers, each the index of its class")
  wrong = np.flatnonzero(~((labels >= 0) & (labels < num_classes) & (labels == np.round(labels))))
  if len(wrong):
    at = describe(int(wrong[0]), name_of(images, int(wrong[0])))
    raise DataError(
      f"{name}: {at} has the label {labels[wrong[0]]}; expected an integer from 0 to {num_classes - 1} "
      f"for the {num_classes} classes (labels like this: {len(wrong)})"
    )
  result = labels.astype(np.int32)
  result.setflags(write=False)
  return result
