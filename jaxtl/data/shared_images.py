"""Images that two sources have in common, by the digests of their stored bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from jaxtl.data.sources.source import Source
from jaxtl.data.sources.storage import Encoded, Files

# Sources of more images are not compared: reading samples of every file would delay the start of a run.
MOST_FILES = 200_000


def shared_images(one: Any, other: Any) -> list[tuple[int, int]]:
  """Returns pairs of indices of equal images of two sources, in the order of the second.

  Pixels are compared with pixels, and encoded images with encoded images: by size and content, of which large
  files are sampled. Sources that stream, or have more than `MOST_FILES` files, have no known images.
  """
  first = {digest: index for index, digest in reversed(list(enumerate(_digests(one))))}
  pairs = ((first.get(digest), index) for index, digest in enumerate(_digests(other)))
  return [(index, same) for index, same in pairs if index is not None]


def _digests(source: Any) -> list[bytes]:
  """Returns a digest of each image; that of an unreadable file equals no other."""
  if not isinstance(source, Source):
    return []
  if isinstance(source.images, Encoded):
    return [_digest(image) for image in source.images.data]
  if isinstance(source.images, Files):
    if len(source) > MOST_FILES:
      return []
    # The identity of a file is its name, its size, and a digest; an unreadable one has no size.
    found = [identity.split(b"\0", 1)[1] for identity in source.images.chunks()]
    alone = f"{id(source)} ".encode()
    return [digest if b"\0" in digest else alone + b"%d" % index for index, digest in enumerate(found)]
  return [_digest(repr(image.shape).encode() + image.tobytes()) for image in np.asarray(source.pixels)]


def _digest(content: bytes) -> bytes:
  return b"%d\0" % len(content) + hashlib.sha256(content).digest()
