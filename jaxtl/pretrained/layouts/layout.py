"""The names and shapes that other libraries give to the tensors of a jaxtl model.

In this package, "ours" are the arrays of jaxtl and "theirs" those of the other library. A layout specifies,
for every leaf of our tree, the tensors that it is made from and the rule. The same table reads and writes, so
a weight that is exported and imported again is identical, byte for byte.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtl import models, tree, weights
from jaxtl.config import first_few
from jaxtl.data import Preprocessing
from jaxtl.errors import CheckpointError, ConfigError
from jaxtl.pretrained.layouts.rules import CONV, LINEAR, SAME, Rule
from jaxtl.pretrained.prefixes import in_line, some
from jaxtl.types import Model

Tensors = Mapping[str, np.ndarray]
# Groups of digits in a pattern are passed as numbers, so that block 1 can become block 0.
Naming = Callable[..., "str | tuple[str, ...]"]


@dataclasses.dataclass(frozen=True)
class Entry:
  """The mapping of one of our leaves.

  Attributes:
    path: our path with its collection: `params/stem/conv1/kernel`.
    shape: our shape.
    keys: their tensors from which the leaf is made.
    rule: the conversion.
  """

  path: str
  shape: tuple[int, ...]
  keys: tuple[str, ...]
  rule: Rule


def torch_leaf(module: str, leaf: str, ndim: int) -> tuple[tuple[str, ...], Rule]:
  """Returns (keys, rule) of the tensor of a torch module that corresponds to our leaf."""
  if leaf == "kernel":
    return (f"{module}.weight",), CONV if ndim == 4 else LINEAR
  return (
    f"{module}.{ {'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}.get(leaf, leaf) }",
  ), SAME


@dataclasses.dataclass(frozen=True)
class Names:
  """Their names for the parts of one family of models.

  Attributes:
    modules: (pattern of our module path, their module).
    tensors: (pattern of our whole path without the collection, their key or keys, rule), for leaves that do
      not follow their module; these take precedence.
    leaf: (their module, our leaf, its dimensions) -> (keys, rule).
    others: pattern of keys in the same file that belong to another model, such as the other tower of CLIP.
  """

  modules: Sequence[tuple[str, Naming]] = ()
  tensors: Sequence[tuple[str, Naming, Rule]] = ()
  leaf: Callable[[str, str, int], tuple[tuple[str, ...], Rule]] = torch_leaf
  others: str = r"(?!)"

  def find(self, path: str, ndim: int) -> tuple[tuple[str, ...], Rule]:
    """Returns (keys, rule) of the leaf at `path`."""
    _, _, inside = path.partition("/")
    for pattern, naming, rule in self.tensors:
      if groups := re.fullmatch(pattern, inside):
        keys = naming(*_numbers(groups))
        return (keys,) if isinstance(keys, str) else tuple(keys), rule
    module, _, leaf = inside.rpartition("/")
    for pattern, naming in self.modules:
      if groups := re.fullmatch(pattern, module):
        return self.leaf(str(naming(*_numbers(groups))), leaf, ndim)
    raise AssertionError(f"no name for {path}")  # the table lacks a block of its own family


def _numbers(groups: re.Match[str]) -> Iterable[Any]:
  return (int(group) if group and group.isdigit() else group for group in groups.groups())


@dataclasses.dataclass(frozen=True)
class Layout:
  """The format in which a library or a repository stores weights.

  Attributes:
    name: name on the command line.
    families: (pattern of a model's name, (model, shapes of its parameters) -> its names).
    keywords: model name -> the keywords with which our model computes what theirs does.
    preprocessing: model name -> the preprocessing that its weights expect, if the file does not specify it.
    aliases: (pattern, replacement) for older names of the same tensors.
    ignored: pattern of keys that carry no weight; by default the counters of batch normalisation and of
      torch's AveragedModel, which torchvision's training stores as its moving average.
    library: the package that builds the original for `--verify`; None if there is none.
  """

  name: str
  families: Sequence[tuple[str, Callable[[Model, Any], Names]]]
  preprocessing: Callable[[str], Preprocessing]
  keywords: Callable[[str], dict[str, Any]] = lambda name: {}
  aliases: Sequence[tuple[str, str]] = ()
  ignored: str = r"(.*\.)?num_batches_tracked|n_averaged"
  library: str | None = None

  def has(self, model: str) -> bool:
    """Returns whether the layout has names for a model."""
    return any(re.fullmatch(pattern, model) for pattern, _ in self.families)

  def entries(self, model: Model, shapes: Any) -> list[Entry]:
    """Returns one entry per leaf.

    Args:
      model: one of our models.
      shapes: {"params", "batch_stats"}, whose leaves have a shape.

    Raises:
      ConfigError: the layout has no names for this model.
    """
    names = self._names(model, shapes)
    leaves = zip(tree.paths(shapes), jax.tree.leaves(shapes), strict=True)
    return [Entry(path, tuple(leaf.shape), *names.find(path, len(leaf.shape))) for path, leaf in leaves]

  def split(self, model: Model, shapes: Any, tensors: Tensors) -> tuple[dict[str, np.ndarray], int]:
    """Returns the tensors that may belong to the model, and the number of those of another model."""
    others = self._names(model, shapes).others
    mine = {key: value for key, value in tensors.items() if not re.fullmatch(others, key)}
    return mine, len(tensors) - len(mine)

  def _names(self, model: Model, shapes: Any) -> Names:
    for pattern, family in self.families:
      if re.fullmatch(pattern, model.name):
        return family(model, shapes["params"])
    raise ConfigError(f"the layout {self.name!r} has no {model.name}; it has {self.covers}")

  @property
  def covers(self) -> str:
    """The models for which the layout has names, as text for messages."""
    return ", ".join(name for name in models.__all__ if self.has(name))

  def canonical(self, tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns the tensors that carry weights, under their newest names."""
    renamed = {self.renamed(key): value for key, value in tensors.items()}
    return {key: value for key, value in renamed.items() if not re.fullmatch(self.ignored, key)}

  def renamed(self, key: str) -> str:
    """Returns the newest name of a tensor."""
    for pattern, replacement in self.aliases:
      key = re.sub(pattern, replacement, key)
    return key


def read(
  entries: Sequence[Entry], tensors: Tensors, shapes: Any, *, allow: Sequence[str] = ()
) -> tuple[Any, list[str]]:
  """Converts their tensors to our tree.

  Args:
    entries: the entries of the model, from `Layout.entries`.
    tensors: their tensors under canonical names.
    shapes: our shapes; leaves that the file lacks and `allow` names are returned unchanged.
    allow: regexes of our paths that may be missing in the file, and of its keys that may be left over.

  Returns:
    The tree in float32, with position embeddings resized if they are for another grid; and the allowed keys
    that were left over.

  Raises:
    CheckpointError: a tensor is missing, left over or of another shape, and `allow` does not name it; or its
      values are not finite real numbers.
  """
  grid = any(entry.path == "params/embed/proj/kernel" for entry in entries)  # patches, not words
  problems: list[str] = []
  found: dict[str, np.ndarray] = {}
  for entry in entries:
    missing = [key for key in entry.keys if key not in tensors]
    if missing:
      if not _named(allow, entry.path):
        problems.append(f"{missing[0]} is missing from the file, for {entry.path}")
      continue
    strange = [key for key in entry.keys if tensors[key].dtype.kind not in "biuf"]
    if strange:
      problems.append(f"{strange[0]} holds {tensors[strange[0]].dtype}; expected real numbers")
      continue
    try:
      value = entry.rule.to_ours([_float32(tensors[key]) for key in entry.keys], entry.shape)
      if grid and re.search(weights.POSITIONS, entry.path):
        value = weights.resize_positions(value, entry.shape)
    except ValueError:
      value = None
    if value is None or value.shape != entry.shape:
      theirs = " and ".join(str(tuple(tensors[key].shape)) for key in entry.keys)
      if not _named(allow, entry.path):
        problems.append(f"{entry.keys[0]} is {theirs}, which does not give {entry.shape} of {entry.path}")
      continue
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinite, and is reported
      found[entry.path] = np.asarray(value, np.float32, order="C")
    if not np.isfinite(found[entry.path]).all():
      problems.append(f"{entry.keys[0]} holds values that are not finite")
  used = {key for entry in entries for key in entry.keys}
  left = [key for key in tensors if key not in used]
  problems += [
    f"{in_line(key)} {tuple(tensors[key].shape)} of the file has no place in the model"
    for key in left
    if not _named(allow, key)
  ]
  if problems:
    raise CheckpointError(f"the file does not fit: {first_few(problems)}; {_both(used, tensors)}see --allow")
  return tree.map_with_path(lambda path, leaf: found.get(path, leaf), shapes), left


def _both(expected: set[str], tensors: Tensors) -> str:
  """Lists some names of each side if fewer than half of the expected ones are in the file; else ""."""
  if 2 * len(expected & set(tensors)) >= len(expected):
    return ""
  return f"expected {some(expected)}; the file has {some(tensors)}; see --as, --layout, --prefix; "


def write(entries: Sequence[Entry], ours: Any) -> dict[str, np.ndarray]:
  """Converts our tree to their tensors; the inverse of `read`.

  Raises:
    ConfigError: the layout can only be read.
  """
  leaves = dict(zip(tree.paths(ours), jax.tree.leaves(ours), strict=True))
  tensors: dict[str, np.ndarray] = {}
  for entry in entries:
    if entry.rule.to_theirs is None:
      raise ConfigError(f"{entry.path} has no inverse in this layout, which is read-only")
    values = entry.rule.to_theirs(np.asarray(leaves[entry.path]), len(entry.keys))
    # Not ascontiguousarray, which adds an axis to scalars such as CLIP's temperature.
    tensors |= {key: np.asarray(x, order="C") for key, x in zip(entry.keys, values, strict=True)}
  return tensors


def _float32(tensor: np.ndarray) -> np.ndarray:
  """Converts types of less than 4 bytes to float32, so that no computation uses half precision."""
  return tensor.astype(np.float32) if tensor.dtype.itemsize < 4 else tensor


def _named(patterns: Sequence[str], name: str) -> bool:
  return any(re.search(pattern, name) for pattern in patterns)
