"""Several data sets as one, in turn."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from jaxtl.data.sources import Source
from jaxtl.data.storage import Encoded, Files
from jaxtl.errors import DataError


def joined(*, sources: Mapping[str, Source], name: str = "joined") -> Source:
  """The examples of all sources in turn, as often as the largest has examples; classes side by side.

  Example i is of source i mod k, so that in every order each source has the same share of the examples,
  however small it is: those of smaller ones come back. The label of a source's class is moved behind the
  classes of the sources before it.

  Args:
    sources: {name: source with random access}; a class is called `name/class`.
    name: of the whole, shown in reports.

  Raises:
    DataError: there are no sources, or one has no random access or no examples.
  """
  if not sources:
    raise DataError("joined has no sources; give at least one")
  for key, source in sources.items():
    if not isinstance(source, Source) or not len(source):
      raise DataError(f"joined needs random access, and examples: {key!r} ({source.name}) has not")
  most = max(map(len, sources.values()))
  images: list[bytes] = [b""] * (most * len(sources))
  labels = np.empty(len(images), np.int32)
  offset = 0
  for number, source in enumerate(sources.values()):
    place = np.arange(most) % len(source)
    encoded = [_encoded(source, index) for index in range(len(source))]
    images[number :: len(sources)] = [encoded[index] for index in place]  # the same bytes, not copies
    labels[number :: len(sources)] = source.labels[place] + offset
    offset += len(source.classes)
  classes = tuple(f"{key}/{class_name}" for key, source in sources.items() for class_name in source.classes)
  kind = "real" if all(source.kind == "real" for source in sources.values()) else "drawn"
  return Source(name=name, classes=classes, labels=labels, images=Encoded(images), kind=kind)


def _encoded(source: Source, index: int) -> bytes:
  """An image file; pixels become a PNG, which loses nothing."""
  if isinstance(source.images, Encoded | Files):
    return source.images[index]
  file = io.BytesIO()
  Image.fromarray(source.read(index)).save(file, format="PNG", compress_level=1)
  return file.getvalue()
