"""Fits a trained tree into that of another model: leaves match by path, and every mismatch is reported."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtl import tree
from jaxtl.config import first_few
from jaxtl.errors import CheckpointError
from jaxtl.types import Params

# Where models keep the embedding of a square grid of patches.
POSITIONS = r"(^|/)embed/positions$"


def match(trained: Params, fresh: Params, *, allow: Sequence[str] = ()) -> Params:
  """Returns `trained` in the structure of `fresh`, by path; resizes position embeddings of another grid.

  Args:
    trained: the tree to take values from.
    fresh: the tree whose paths and shapes are wanted.
    allow: path regexes of leaves that may keep their fresh value, and of trained leaves that may be dropped:
      usually the head, `(r"^head/",)`.

  Raises:
    CheckpointError: a leaf is missing, left over, or of another shape, and `allow` does not name it.
  """
  wanted = dict(zip(tree.paths(fresh), jax.tree.leaves(fresh), strict=True))
  source = dict(zip(tree.paths(trained), jax.tree.leaves(trained), strict=True))
  for path in source:
    if path in wanted and re.search(POSITIONS, path):
      source[path] = resize_positions(source[path], wanted[path].shape)
  problems = [
    f"{path} is not in the checkpoint" for path in wanted if path not in source and not _any(allow, path)
  ]
  problems += [
    f"{path} is not in the model" for path in source if path not in wanted and not _any(allow, path)
  ]
  problems += [
    f"{path} has shape {tuple(source[path].shape)}, and {tuple(wanted[path].shape)} in the model"
    for path in wanted
    if path in source and source[path].shape != wanted[path].shape and not _any(allow, path)
  ]
  if problems:
    raise CheckpointError(f"the checkpoint does not fit the model: {first_few(problems)}")

  def take(path: str, leaf: Any) -> Any:
    kept = source.get(path)
    return leaf if kept is None or _any(allow, path) else kept

  return tree.map_with_path(take, fresh)


def resize_positions(positions: Any, shape: Sequence[int]) -> Any:
  """Resizes a position embedding to a grid of another size, by bicubic interpolation with antialiasing.

  Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, arXiv 2010.11929, section 3.2, fine-tune at
  another resolution this way. The rows of class and distillation tokens, which come first, are never resized.

  Args:
    positions: [1, tokens + g^2, D].
    shape: the wanted [1, tokens + h^2, D].

  Returns:
    [1, tokens + h^2, D]; `positions` unchanged if they already fit, or if only another number of tokens or
    another width would make them fit.
  """
  if tuple(positions.shape) == tuple(shape) or len(positions.shape) != len(shape) or positions.ndim != 3:
    return positions
  old, new = math.isqrt(positions.shape[1]), math.isqrt(shape[1])
  tokens = positions.shape[1] - old**2
  if tokens != shape[1] - new**2 or positions.shape[2] != shape[2]:
    return positions
  width = positions.shape[2]
  grid = np.asarray(positions[:, tokens:]).reshape(1, old, old, width)
  resized = jax.image.resize(grid, (1, new, new, width), "bicubic")
  return np.concatenate([positions[:, :tokens], np.asarray(resized).reshape(1, new**2, width)], axis=1)


def _any(patterns: Sequence[str], path: str) -> bool:
  return any(re.search(pattern, path) for pattern in patterns)
