"""Layers: named groups of a model's blocks whose weights change while all others stay unchanged."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from jaxtl import tree
from jaxtl.errors import ConfigError, instead
from jaxtl.types import Model, Params

# A DenseNet's dense layers by stage, every other block on its own.
_COARSE = (r"(stage\d+)_layer\d+", ".+")


@dataclasses.dataclass(frozen=True)
class Group:
  """A layer.

  Attributes:
    name: of the layer.
    blocks: its blocks in forward order; each is a top-level key of the parameters.
    num_parameters: number of scalars in them.
  """

  name: str
  blocks: tuple[str, ...]
  num_parameters: int


def layer_groups(model: Model, params: Params, *, groups: Sequence[str] | None = None) -> tuple[Group, ...]:
  """Returns the layers of a model, in the order of their first blocks.

  By default every block is a layer: the embedding, each encoder block, the last norm and the head of a ViT;
  the stem, each residual block and the head of a ResNet; and so on. Only the dense layers of a DenseNet are
  grouped by stage, as `stage1` .. `stage4`; `groups=(".+",)` keeps them apart.

  Args:
    model: whose blocks they are.
    params: its parameters, or their shapes.
    groups: regexes that match whole names of blocks; the first match counts. The name of a layer is what the
      first parenthesis of its regex matched, or else that of its block: `("block11", "head")` are two layers,
      `(r"(stage\\d+)_.+",)` is one for each stage. Blocks that no regex matches are in no layer.

  Raises:
    ConfigError: the model has no blocks, `groups` is empty or has an invalid regex, a regex matches no block
      or none that an earlier one has left, or a requested layer has no parameters.
  """
  if not model.blocks:
    raise ConfigError(f"{model.name} has no blocks; a layer is a group of blocks")
  if groups is not None and (isinstance(groups, str) or not groups):
    raise ConfigError(f"groups is {groups!r}; write a list of at least one regex of block names")
  found: dict[str, list[str]] = {}
  rules = _COARSE if groups is None else tuple(groups)
  used = set()
  regexes = [tree.compiled(rule) for rule in rules]
  for block in model.blocks:
    for number, regex in enumerate(regexes):
      if match := regex.fullmatch(block):
        used.add(number)
        found.setdefault((match.groups() and match.group(1)) or block, []).append(block)
        break
  if groups is not None:
    _refuse_idle(model, [rule for number, rule in enumerate(rules) if number not in used])
  made = [Group(name, tuple(blocks), _size(params, blocks)) for name, blocks in found.items()]
  return _with_parameters(model, made, asked=groups is not None)


def _refuse_idle(model: Model, idle: Sequence[str]) -> None:
  """Raises a ConfigError for the first regex that no block was left for."""
  for rule in idle:
    if any(re.fullmatch(rule, block) for block in model.blocks):
      raise ConfigError(f"the layer {rule!r} has no block left; earlier ones match all of its blocks")
    raise ConfigError(f"the layer {rule!r} matches no block of {model.name}{instead(rule, model.blocks)}")


def _with_parameters(model: Model, made: Sequence[Group], *, asked: bool) -> tuple[Group, ...]:
  """Returns the groups that have parameters; refuses a requested one that has none."""
  for group in made:
    if asked and not group.num_parameters:
      raise ConfigError(f"the layer {group.name!r} of {model.name} has no parameters; leave it out")
  kept = tuple(group for group in made if group.num_parameters)
  if not kept:
    raise ConfigError(f"no block of {model.name} has parameters; there is no layer")
  return kept


def _size(params: Params, blocks: Sequence[str]) -> int:
  return sum(tree.size(params[block]) for block in blocks if block in params)
