"""Several data sets joined into one by alternating their examples."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from jaxtl.data.sources.source import Source, TargetSpec
from jaxtl.data.sources.storage import Encoded
from jaxtl.data.sources.tfds import RecordSource, StreamSource
from jaxtl.errors import DataError


def joined(*, sources: Mapping[str, Source | RecordSource | StreamSource], name: str = "joined") -> Source:
  """Joins sources by alternating their examples; the classes of all sources are concatenated.

  Example i comes from source i mod k, so each of the k sources has the same share of the examples. Every
  source contributes as many examples as the largest has; those of smaller sources repeat. The labels of a
  source follow those of the sources before it. All images are in memory, encoded.

  A target is kept if every source has it with the same shape and type, and labels if every source has
  classes. `dropped` of the result says why each of the others is left out.

  Args:
    sources: {name: source}; a class is called `name/class`.
    name: name of the joined source, shown in reports.

  Raises:
    DataError: there are no sources, or one has no examples.
  """
  if not sources:
    raise DataError("joined has no sources; give at least one")
  held = {key: one.gather() if isinstance(one, StreamSource) else one for key, one in sources.items()}
  for key, source in held.items():
    if not len(source):
      raise DataError(f"joined needs examples, and {key!r} ({source.name}) has none")
  most = max(map(len, held.values()))
  images: list[bytes] = [b""] * (most * len(held))
  labels = np.zeros(len(images), np.int32)
  shared, dropped = _shared_targets(held)
  targets = {key: np.empty((len(images), *shape), kind) for key, (shape, kind) in shared.items()}
  offset = 0
  for number, source in enumerate(held.values()):
    place = np.arange(most) % len(source)
    encoded = [_encoded(source, index) for index in range(len(source))]
    images[number :: len(held)] = [encoded[index] for index in place]  # shared, not copied
    for target, array in targets.items():
      array[number :: len(held)] = _target(source, target)[place]
    if "label" not in dropped:
      labels[number :: len(held)] = source.labels[place] + offset
      offset += len(source.classes)
  classes = tuple(f"{key}/{class_name}" for key, source in held.items() for class_name in source.classes)
  kind = "real" if all(source.kind == "real" for source in held.values()) else "synthetic"
  left_out = tuple(file for source in held.values() for file in getattr(source, "left_out", ()))
  return Source(
    name=name,
    classes=() if "label" in dropped else classes,
    labels=labels,
    images=Encoded(images),
    kind=kind,
    left_out=left_out,
    targets=targets,
    dropped=dropped,
  )


def _shared_targets(
  sources: Mapping[str, Source | RecordSource],
) -> tuple[dict[str, TargetSpec], dict[str, str]]:
  """Returns the targets besides labels that all sources share, and why each of the others is dropped."""
  specs = {key: source.target_specs for key, source in sources.items()}
  shared, dropped = {}, {}
  for name in dict.fromkeys(name for own in specs.values() for name in own):
    found = {key: own.get(name) for key, own in specs.items()}
    texts = {key: _text(spec) for key, spec in found.items()}
    if len(set(texts.values())) > 1:
      each = ", ".join(f"{text} in {key!r}" for key, text in texts.items())
      dropped[name] = f"it differs between the joined sources: {each}"
    elif name != "label":
      shared[name] = found[next(iter(found))]
  return {name: spec for name, spec in shared.items() if spec is not None}, dropped


def _text(spec: TargetSpec | None) -> str:
  return "absent" if spec is None else f"{np.dtype(spec[1])} {list(spec[0])}"


def _target(source: Source | RecordSource, name: str) -> np.ndarray:
  """Returns one target of all examples, [N, ...]."""
  if isinstance(source, Source):
    return source.targets[name]
  return np.concatenate([source.fetch(np.array([index]))[1][name] for index in range(len(source))])


def _encoded(source: Source | RecordSource, index: int) -> bytes:
  """Returns one image as an encoded file; pixels become a PNG, which is lossless."""
  image = source.images[index]
  if isinstance(image, bytes):
    return image
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="PNG", compress_level=1)
  return file.getvalue()
