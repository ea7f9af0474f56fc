"""Conversion of Flax Linen modules to plain functions of (params, batch_stats, images)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtl.errors import ConfigError, instead
from jaxtl.types import Array, Model, Params

Features = dict[str, Array]


class Inputs(NamedTuple):
  """The input of a model: its description in messages, its number of dimensions, its type."""

  what: str
  ndim: int
  dtype: Any


IMAGES = Inputs("images [B, H, W, C]", 4, jnp.float32)


class Chain(nn.Module):
  """A sequence of named blocks, in which a forward pass can start and stop at any block.

  A block is called as `block(x, train, frozen_stats)` and returns the hidden state that enters the next one;
  the last block returns a dict of features. A block that reads feature maps of several earlier blocks, as a
  feature pyramid does, gets a dict of them instead. Between the blocks that output these maps and the block
  that reads them, the hidden state of a pass that starts or stops there is a dict: the maps so far by name,
  and `hidden`, what enters the next block.

  Attributes:
    blocks: (name, constructor that takes `name`) in forward order.
    taps: feature -> the block that outputs it.
    as_map: hidden state -> feature map [B, h, w, D].
    strides: feature -> pixels of the image per position of its map, rows and columns alike.
    reads: block -> the features that enter it.
  """

  blocks: tuple[tuple[str, Callable[..., nn.Module]], ...]
  taps: Mapping[str, str]
  as_map: Callable[[Array], Array] = lambda x: x
  strides: Mapping[str, int] = dataclasses.field(default_factory=dict)
  reads: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

  @nn.compact
  def __call__(
    self, x: Any, *, train: bool, frozen_stats: bool, start: str | None, stop: str | None
  ) -> Features:
    names = [name for name, _ in self.blocks]
    first = 0 if start is None else names.index(start)
    last = len(names) if stop is None else names.index(stop)
    features: Features = {}
    carried = _carried(self, first)
    maps, hidden = ({name: x[name] for name in carried}, x.get("hidden")) if carried else ({}, x)
    # Only the blocks that run are constructed: the parameters of the others may be absent.
    for name, make in self.blocks[first:last]:
      if name in self.reads:
        hidden = {feature: maps[feature] for feature in self.reads[name]}
      hidden = make(name=name)(hidden, train, frozen_stats)
      new = {feature: self.as_map(hidden) for feature, block in self.taps.items() if block == name}
      features |= new
      maps |= new
    if stop is None:
      return features | hidden
    if carried := _carried(self, last):
      beyond = {} if stop in self.reads else {"hidden": hidden}
      hidden = {name: maps[name] for name in carried} | beyond
    return {"hidden": hidden}


def _carried(chain: Chain, index: int) -> tuple[str, ...]:
  """Returns the features of the blocks before `index` that a block from `index` on reads."""
  names = [name for name, _ in chain.blocks]
  return tuple(
    feature
    for reader, features in chain.reads.items()
    if names.index(reader) >= index
    for feature in features
    if names.index(chain.taps[feature]) < index
  )


def from_linen(name: str, module: nn.Module, blocks: Sequence[str], *, inputs: Inputs = IMAGES) -> Model:
  """Converts a Linen module to a `Model`.

  Args:
    name: name of the model in messages and reports.
    module: `module(x, *, train, frozen_stats, start, stop)` -> features; draws its noise from the
      stream `dropout` and stores its normalisation statistics in the collection `batch_stats`.
    blocks: the names of its submodules in forward order.
    inputs: the input of the model, if it is not images.

  Returns:
    The model. Its functions raise ConfigError for an unknown block, a `start` after `stop`, inputs with
    another number of dimensions, and `train=True` without a key if the module draws random numbers.
  """
  blocks = tuple(blocks)

  def init(key: Array, images: Any) -> tuple[Params, Params]:
    _check_inputs(name, inputs, images)
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), inputs.dtype)
    options: dict[str, Any] = dict(train=False, frozen_stats=False, start=None, stop=None)
    if isinstance(key, jax.core.Tracer):
      # Under `jit` and `eval_shape` the forward pass is dead code.
      variables = module.init(key, jnp.zeros(one.shape, one.dtype), **options)
    else:
      # Called eagerly, only `lazy_init` avoids a forward pass; it takes twice as long to trace.
      variables = module.lazy_init(key, one, **options)
    return variables["params"], variables.get("batch_stats", {})

  def apply(
    params: Params,
    batch_stats: Params,
    images: Array,
    *,
    train: bool = False,
    frozen_stats: bool = False,
    key: Array | None = None,
    start: str | None = None,
    stop: str | None = None,
  ) -> tuple[Features, Params]:
    _check_span(name, blocks, start, stop)
    if start is None:
      _check_inputs(name, inputs, images)
    moving = bool(batch_stats) and train and not frozen_stats
    try:
      features, moved = module.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=train,
        frozen_stats=frozen_stats,
        start=start,
        stop=stop,
        rngs={} if key is None else {"dropout": key},
        mutable=["batch_stats"] if moving else [],
      )
    except flax.errors.InvalidRngError as error:
      raise ConfigError(
        f"{name} draws random numbers when train=True; pass key=jax.random.key(seed)"
      ) from error
    return features, moved["batch_stats"] if moving else batch_stats

  return Model(name=name, init=init, apply=apply, blocks=blocks, module=module)


def _check_inputs(name: str, inputs: Inputs, given: Any) -> None:
  if len(given.shape) != inputs.ndim:
    raise ConfigError(f"{name} takes {inputs.what}; got an array of shape {tuple(given.shape)}")


def _check_span(name: str, blocks: tuple[str, ...], start: str | None, stop: str | None) -> None:
  for block in (start, stop):
    if block is not None and block not in blocks:
      raise ConfigError(f"{name} has no block {block!r}{instead(block, blocks)}")
  if start is not None and stop is not None and blocks.index(start) > blocks.index(stop):
    raise ConfigError(f"{name} runs {stop!r} before {start!r}; write start={stop!r}, stop={start!r}")
