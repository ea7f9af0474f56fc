"""The vocabulary of the library: arrays, trees, batches, and the protocols between its parts.

The batch contract (every pipeline produces it, every task consumes it):

  image  float32 [B, H, W, 3]   normalised pixels
  mask   bool [B]               False for rows that only pad the batch to its fixed shape
  NAME   [B, ...]               the targets of the source, by name; a task says which it reads (`Task.inputs`)
  weak   a separate batch       optional, for gradient rules that ask for one (`GradientRule`): drawn from the
                                same source, uniformly with replacement, independently of the outer batch
  hidden [B, ...]               instead of `image`, if the output of a part of the network is cached
                                (`jaxtl.train.prefix_cache`): the input of the first block that is not cached

The targets of a classification:

  label  int32 [B]              the class, or float32 [B, K], a distribution over classes
  label_b int32 [B], weight float32 [B]   optional, from mixup and cutmix: the target is
                                `weight * label + (1 - weight) * label_b`
  views  float32 [B, V, H, W, 3]   optional, from aug_mix_jsd: V further versions of each image
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array
Params = Any  # a nested dict of arrays
Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Row = dict[str, Any]  # one line of `rows.jsonl`
ExampleLoss = Callable[[Mapping[str, Array], Batch], Array]  # (features, batch) -> [B]


class Aux(NamedTuple):
  """The values that a loss returns in addition to the loss itself.

  Attributes:
    batch_stats: normalisation statistics after this batch (the given ones if they are frozen).
    metrics: scalars for the log.
    memory: the state that a gradient rule with memory carries to the next step; `()` for all others.
  """

  batch_stats: Params
  metrics: Metrics
  memory: tuple[Any, ...] = ()


class LossFn(Protocol):
  """A function (params, batch_stats, batch, key) -> (mean loss, Aux)."""

  def __call__(self, params: Params, batch_stats: Params, batch: Batch, key: Array) -> tuple[Array, Aux]: ...


class ValueAndGrad(Protocol):
  """The interface of `jax.value_and_grad(loss_fn, has_aux=True)`; memory, if any, is the fifth argument."""

  def __call__(
    self, params: Params, batch_stats: Params, batch: Batch, key: Array, *memory: Any
  ) -> tuple[tuple[Array, Aux], Params]: ...


class GradientRule(Protocol):
  """A way to take the gradient of a loss: plain, SAM, accumulation, ...

  A rule that remembers something between steps also has `init_memory(params) -> tuple`, and its
  `value_and_grad` returns the next memory in `Aux.memory`. A rule that trains only a part of the network has
  `trained(model) -> path regex` of that part. Its gradient is exactly zero elsewhere, and
  `cut(model, params) -> block` names the block that a hidden state may enter instead of images. A rule that
  reads a second batch has `weak_rows(batch_size) -> number of its rows`, and finds it as `batch["weak"]`.
  """

  def __call__(self, loss_fn: LossFn) -> ValueAndGrad: ...


@dataclasses.dataclass(frozen=True)
class Model:
  """A backbone with its head as pure functions of (params, batch_stats, images).

  Attributes:
    name: the function that made it, for example `resnet50`.
    init: (key, images) -> (params, batch_stats).
    apply: (params, batch_stats, images, *, train=False, frozen_stats=False, key=None,
      start=None, stop=None) -> (features, batch_stats). `train` enables dropout and stochastic
      depth. With `train` and without `frozen_stats`, normalisation uses the statistics of the batch
      and updates the stored ones. Features are those of `stage1..`, `pooled` and `logits` that the
      executed blocks produce. With `start`, `images` is the hidden state that enters that block;
      with `stop`, the result holds the single feature `hidden`, which enters block `stop`. It is an
      array, or a dict of arrays where later blocks read several maps, as in a detector.
    blocks: the names of the blocks in forward order; each is a top-level key of `params`. The first
      is the stem, the last is the head.
    module: the module behind the functions, which a detector or a segmenter extends by further blocks;
      None if the functions have another origin.
    added: path regex of parameters that the model adds to a backbone, and that weights to start from may
      lack; None if there are none.
  """

  name: str
  init: Callable[..., tuple[Params, Params]]
  apply: Callable[..., tuple[dict[str, Array], Params]]
  blocks: tuple[str, ...]
  module: Any = dataclasses.field(default=None, compare=False, repr=False)
  added: str | None = None

  @property
  def head(self) -> str:
    return self.blocks[-1]

  def prefix(self, params: Params, batch_stats: Params, images: Array, *, stop: str) -> Any:
    """Computes the hidden state that enters block `stop`, with the stored statistics."""
    features, _ = self.apply(params, batch_stats, images, stop=stop)
    return features["hidden"]

  def suffix(self, params: Params, batch_stats: Params, hidden: Any, *, start: str) -> dict[str, Array]:
    """Computes all features from block `start` on, with the stored statistics."""
    features, _ = self.apply(params, batch_stats, hidden, start=start)
    return features


@dataclasses.dataclass(frozen=True)
class ModelLoss:
  """A `LossFn` that knows its model and can be made for another one: for parts of it, or for logits.

  Attributes:
    model: the model whose loss it is.
    of: Model -> LossFn, the same loss for another model.
  """

  model: Model
  of: Callable[[Model], LossFn]

  def __call__(self, params: Params, batch_stats: Params, batch: Batch, key: Array) -> tuple[Array, Aux]:
    return self.of(self.model)(params, batch_stats, batch, key)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that changes during training, as arrays only.

  Attributes:
    step: int32 [], updates made so far.
    params, batch_stats: the weights and the normalisation statistics.
    opt_state: the optimiser's state, including the moving average of the parameters.
    memory: the state that the gradient rule carries between steps (LookSAM's direction); `()` for most.
  """

  step: Array
  params: Params
  batch_stats: Params
  opt_state: Any
  memory: Any = ()
