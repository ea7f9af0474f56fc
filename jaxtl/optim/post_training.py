"""Post-training: gradient rules that train one part of a trained network while another part is perturbed.

PoF trains the feature extractor under randomly over-fitted classifiers; PoL does the same for any two sets of
layers. The classifier of a step is theta_0 - gamma eta g. Here g is the gradient of a second, "weak" batch at
the stored weights, eta is the best length for that batch, and gamma ~ U(0, 2) is one number per step. So the
perturbation descends on another batch, while that of SAM ascends on the same one, and its length is set by
the data. The perturbation is never stored: after the step the perturbed part has its stored weights again.

Sato, Yamada, Tanaka, Inoue, Kawakami, "PoF: Post-Training of Feature Extractor for Improving Generalization",
2022, arXiv 2207.01847. Its released code searches for the length as `search="trials"` does.

Only the moved part is differentiated. The blocks below both parts run as at test time, with the stored
statistics and without dropout; their output may be replaced by a cached hidden state (`batch["hidden"]`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.optim import block_choice as parts_lib
from jaxtl.optim import line_search
from jaxtl.optim.block_choice import Names, Parts
from jaxtl.optim.line_search import Found
from jaxtl.types import Array, Aux, Batch, GradientRule, LossFn, Model, ModelLoss, Params, ValueAndGrad

Leaves = dict[str, Array]
# Folded into the key of the step for gamma; the training pass uses the key itself, as under every other rule.
GAMMA = 0x67616D6D


class SearchMemory(NamedTuple):
  """The memory of a rule from step to step.

  Attributes:
    steps: int32 [], number of steps so far.
    start: float32 [], where the next search begins.
    eta: float32 [], the length in use; 0 if the search was rejected.
    rejected: bool [], whether the search was rejected.
    rejects: int32 [], number of steps so far without a perturbation for that reason.
  """

  steps: Array
  start: Array
  eta: Array
  rejected: Array
  rejects: Array


def pof(
  *,
  gamma_range: float = 2.0,
  weak_batch_size: int | None = None,
  search: Literal["newton", "trials"] = "newton",
  num_trials: int = 16,
  eta_init: float = 1.0,
  cap: float = 1e4,
  on_unbounded: Literal["reject", "clip"] = "reject",
  refresh_every: int = 1,
  suffix_bn: Literal["eval", "train"] = "eval",
) -> GradientRule:
  """PoF: trains the feature extractor under perturbed classifiers; the classifier stays unchanged.

  This is `pol` with `perturb=<the head>` and `update=<all below it>`. Arguments, logged numbers and errors
  are those of `pol`.
  """
  return pol(
    update=None,
    gamma_range=gamma_range,
    weak_batch_size=weak_batch_size,
    search=search,
    num_trials=num_trials,
    eta_init=eta_init,
    cap=cap,
    on_unbounded=on_unbounded,
    refresh_every=refresh_every,
    suffix_bn=suffix_bn,
  )


def pol(
  *,
  update: str | Sequence[str] | None,
  perturb: str | Sequence[str] | None = None,
  gamma_range: float = 2.0,
  weak_batch_size: int | None = None,
  search: Literal["newton", "trials"] = "newton",
  num_trials: int = 16,
  eta_init: float = 1.0,
  cap: float = 1e4,
  on_unbounded: Literal["reject", "clip"] = "reject",
  refresh_every: int = 1,
  suffix_bn: Literal["eval", "train"] = "eval",
) -> GradientRule:
  """PoL: trains some layers under perturbations of others, or of themselves.

  The logged loss is that of the perturbed pass; `weak_loss` is that of the stored weights on the weak batch.
  Also logged are `gamma`, `eta` (0 if the step has no perturbation), `perturbation` = |gamma eta g|, `reject`
  (1 if the weak batch has no finite minimum, so that the step has no perturbation) and `rejects`, the number
  of such steps so far. Parameters outside `update` have a gradient of exactly zero. The gradient of a layer
  in both sets is taken at the perturbed point and moves the stored weights, as in SAM.

  Args:
    update: layers to train, as names of blocks of the model or path regexes; None means all that `perturb`
      leaves.
    perturb: layers to perturb, likewise; None means the head.
    gamma_range: gamma ~ U(0, gamma_range). The authors use 2, where a quadratic loss is as high as at the
      start; 0 means training without perturbation, which needs no weak batch.
    weak_batch_size: number of images in the weak batch; None means that of the training batch. The authors
      use 256.
    search: how the length is found if the logits are affine in the perturbed parameters, as in a linear head:
      "newton", the minimum itself (`line_search.newton`), or "trials", as in the authors' code
      (`line_search.equispaced`). Otherwise each length costs a forward pass, and `line_search.geometric` is
      used regardless of this argument.
    num_trials: number of lengths for "trials"; the authors use 16.
    eta_init: where the first search begins; each later one begins where the one before it ended.
    cap: the largest eta. A loss that still falls there counts as unbounded: the weak batch is separable.
    on_unbounded: "reject" leaves the step without a perturbation; "clip" sets eta to the cap.
    refresh_every: period of the search in steps; in between, eta is the last one and g a new one.
    suffix_bn: "eval" normalises with the stored statistics everywhere; "train" uses those of the training
      batch from the lowest of the named layers on and updates the stored ones there, as in the authors' code.

  Raises:
    ConfigError: a value is out of its range; later, when the rule is applied, the loss is not that of a model
      with blocks, or the model does not have a named layer.
  """
  return _PostTraining(
    *(update, perturb, gamma_range, weak_batch_size, search, num_trials),
    *(eta_init, cap, on_unbounded, refresh_every, suffix_bn),
  )


def only(*, update: str | Sequence[str], suffix_bn: Literal["eval", "train"] = "eval") -> GradientRule:
  """Trains some layers alone; the other parameters have a gradient of exactly zero, which is not computed.

  The blocks below the lowest trained one run as at test time, and no activations of them are kept. If nothing
  is augmented, their output can be cached (`jaxtl.train.PrefixCache`). Parameters that are not trained have
  no optimiser state.

  Examples of `update`: `"head"`, the classifier alone; `("head", r"/bias$")`, BitFit (Ben Zaken, Goldberg,
  Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
  2022, arXiv 2106.10199); `("head", "stage1")`, surgical fine-tuning of one stage (Lee, Chen, Tajwar, Kumar,
  Yao, Liang, Finn, "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", 2023, arXiv
  2210.11466).

  Args:
    update: the layers to train, as names of blocks of the model or path regexes.
    suffix_bn: "eval" normalises with the stored statistics everywhere; "train" uses those of the batch from
      the lowest trained block on and updates the stored ones there.

  Raises:
    ConfigError: as in `pol`.
  """
  return pol(update=update, gamma_range=0.0, suffix_bn=suffix_bn)


def trained_paths(rule: GradientRule, model: Model) -> str | None:
  """Returns the path regex of the parameters that a rule moves; None for a rule that moves all of them."""
  part = getattr(rule, "trained", None)
  return part(model) if part else None


def cut_block(rule: GradientRule, model: Model, params: Params) -> str | None:
  """Returns the first block that a rule does not run as at test time; None if the rule does not define one.

  The input of that block may be computed once and cached.
  """
  where = getattr(rule, "cut", None)
  return where(model, params) if where else None


def weak_rows(rule: GradientRule, batch_size: int) -> int:
  """Returns the number of images of the weak batch that a rule asks for; 0 if it asks for none."""
  rows = getattr(rule, "weak_rows", None)
  return rows(batch_size) if rows else 0


@dataclasses.dataclass(frozen=True)
class _PostTraining:
  """The gradient rule; its attributes are the arguments of `pol`."""

  update: Names
  perturb: Names
  gamma_range: float
  weak_batch_size: int | None
  search: str
  num_trials: int
  eta_init: float
  cap: float
  on_unbounded: str
  refresh_every: int
  suffix_bn: str

  def __post_init__(self) -> None:
    size = self.weak_batch_size
    conditions = {
      "gamma_range": (0 <= self.gamma_range < math.inf, "a finite number of 0 or more"),
      "weak_batch_size": (size is None or size >= 1, "at least 1, or None for the training batch's"),
      "search": (self.search in ("newton", "trials"), "'newton' or 'trials'"),
      "num_trials": (self.num_trials >= 1, "at least 1"),
      "cap": (0 < self.cap < math.inf, "a finite number above 0"),
      "eta_init": (0 < self.eta_init <= self.cap, f"a number above 0, up to cap={self.cap:g}"),
      "on_unbounded": (self.on_unbounded in ("reject", "clip"), "'reject' or 'clip'"),
      "refresh_every": (self.refresh_every >= 1, "at least 1"),
      "suffix_bn": (self.suffix_bn in ("eval", "train"), "'eval' or 'train'"),
    }
    for name, (good, expected) in conditions.items():
      if not good:
        raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")

  # ---- the optional methods of a rule

  @property
  def passes(self) -> float:
    """Passes of PoF: a forward pass of the weak batch is a third. PoL needs less, depending on its layers."""
    return 4 / 3 if self.gamma_range else 1.0

  def weak_rows(self, batch_size: int) -> int:
    return (self.weak_batch_size or batch_size) if self.gamma_range else 0

  def trained(self, model: Model) -> str:
    parts_lib.check_blocks(model)
    return parts_lib.pattern(model, self.update) or parts_lib.all_but(self._perturb(model))

  def cut(self, model: Model, params: Params) -> str:
    return self.parts(model, params).cut

  def parts(self, model: Model, params: Params) -> Parts:
    perturb, update, alone = self._perturb(model), self.trained(model), not self.gamma_range
    return parts_lib.find(model, params, perturb=perturb, update=update, moves_alone=alone)

  def _perturb(self, model: Model) -> str:
    found = parts_lib.pattern(model, model.head if self.perturb is None else self.perturb)
    assert found is not None
    return found

  @property
  def init_memory(self) -> Callable[[Params], tuple[Any, ...]] | None:
    if not self.gamma_range:
      return None

    def begin(params: Params) -> tuple[SearchMemory]:
      # Separate arrays: a step that donates its state must not receive the same one twice.
      steps, rejects = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
      eta, rejected = jnp.zeros([], jnp.float32), jnp.zeros([], bool)
      return (SearchMemory(steps, jnp.full([], self.eta_init, jnp.float32), eta, rejected, rejects),)

    return begin

  # ---- the step

  def __call__(self, loss_fn: LossFn) -> ValueAndGrad:
    loss = _loss_of_a_model(loss_fn)
    self.trained(loss.model), self._perturb(loss.model)  # refuses unknown names now

    def value_and_grad(
      params: Params, batch_stats: Params, batch: Batch, key: Array, memory: SearchMemory | None = None
    ) -> tuple[tuple[Array, Aux], Params]:
      parts = self.parts(loss.model, params)
      moved, after = params, cast(tuple[Any, ...], ())
      told: dict[str, Array] = {}
      if self.gamma_range:
        assert memory is not None
        moved, memory, told = self._perturbed(loss, parts, params, batch_stats, batch, key, memory)
        # Separates the two passes: XLA:CPU would keep the values that both have in common, such as biases
        # broadcast over the batch, from the first to the second.
        moved, batch = jax.lax.optimization_barrier((moved, batch))
        after = (memory,)
      staged = loss.of(self._staged(loss.model, parts, hidden="hidden" in batch))

      # The other leaves are closed over: neither their gradient nor the activations below `update` are kept.
      def of_updated(updated: Leaves) -> tuple[Array, Aux]:
        return staged(tree.replace(moved, updated), batch_stats, _entering(batch), key)

      (value, aux), grads = jax.value_and_grad(of_updated, has_aux=True)(tree.select(moved, parts.update))
      aux = aux._replace(metrics=aux.metrics | told, memory=after)
      return (value, aux), tree.replace(tree.zeros_like(params), grads)

    return value_and_grad

  def _perturbed(
    self,
    loss: ModelLoss,
    parts: Parts,
    params: Params,
    batch_stats: Params,
    batch: Batch,
    key: Array,
    memory: SearchMemory,
  ) -> tuple[Params, SearchMemory, dict[str, Array]]:
    """Returns the parameters with a part perturbed, the new memory, and the metrics to log."""
    weak = _weak_batch(batch)
    logits_of = _weak_logits(loss.model, parts, params, batch_stats, weak)
    of_logits = loss.of(_given_logits(loss.model))

    def weak_loss(logits: Array) -> Array:
      return of_logits(logits, batch_stats, _entering(weak), key)[0]

    at = tree.select(params, parts.perturb)
    logits, pullback = jax.vjp(logits_of, at)
    value, slope = jax.value_and_grad(weak_loss)(logits)
    (grads,) = pullback(slope)

    def search(start: Array) -> Found:
      if line_search.is_affine(logits_of, at):
        change = jax.jvp(logits_of, (at,), (grads,))[1]
        return self._search(lambda eta: weak_loss(logits - eta * change), start)
      there = lambda eta: weak_loss(logits_of(tree.sub(at, tree.scale(eta, grads))))  # noqa: E731
      return line_search.geometric(there, start, at_zero=value, cap=self.cap)

    memory = self._remembered(memory, search)
    gamma = self.gamma_range * jax.random.uniform(jax.random.fold_in(key, GAMMA))
    length = gamma * memory.eta
    # A constant for autodiff: no gradient of the moved part goes through the perturbation.
    displaced = jax.lax.stop_gradient(tree.sub(at, tree.scale(length, grads)))
    told = {
      "reject": memory.rejected.astype(jnp.float32),
      "rejects": memory.rejects.astype(jnp.float32),
      "eta": memory.eta,
      "gamma": gamma,
      "perturbation": length * tree.norm(grads),
      "weak_loss": value,
    }
    return tree.replace(params, displaced), memory, told

  def _search(self, loss: Callable[[Array], Array], start: Array) -> Found:
    if self.search == "newton":
      return line_search.newton(loss, start, cap=self.cap)
    return line_search.equispaced(loss, start, cap=self.cap, num_trials=self.num_trials)

  def _remembered(self, memory: SearchMemory, search: Callable[[Array], Found]) -> SearchMemory:
    """Returns the memory with the length of this step, after a search if one is due."""

    def refreshed(memory: SearchMemory) -> SearchMemory:
      found = search(memory.start)
      rejected = found.unbounded & (self.on_unbounded == "reject")
      eta = jnp.where(rejected, 0.0, found.eta).astype(jnp.float32)
      return memory._replace(start=found.start.astype(jnp.float32), eta=eta, rejected=rejected)

    if self.refresh_every == 1:
      memory = refreshed(memory)
    else:
      memory = jax.lax.cond(memory.steps % self.refresh_every == 0, refreshed, lambda same: same, memory)
    return memory._replace(steps=memory.steps + 1, rejects=memory.rejects + memory.rejected)

  def _staged(self, model: Model, parts: Parts, *, hidden: bool) -> Model:
    """Returns the model as the training pass runs it; with `hidden`, its images are the input of the cut."""

    def apply(
      params: Params,
      batch_stats: Params,
      images: Array,
      *,
      train: bool = False,
      frozen_stats: bool = False,
      key: Array | None = None,
    ) -> tuple[dict[str, Array], Params]:
      run = functools.partial(
        model.apply, params, train=train, frozen_stats=frozen_stats or self.suffix_bn == "eval", key=key
      )
      state = images
      if not hidden and parts.cut != model.blocks[0]:
        state = model.prefix(params, batch_stats, state, stop=parts.cut)
      if parts.cut != parts.first_updated:
        features, batch_stats = run(batch_stats, state, start=parts.cut, stop=parts.first_updated)
        state = features["hidden"]
      return run(batch_stats, jax.lax.stop_gradient(state), start=parts.first_updated)

    return dataclasses.replace(model, apply=apply)


def _loss_of_a_model(loss_fn: LossFn) -> ModelLoss:
  if not isinstance(loss_fn, ModelLoss):
    raise ConfigError(
      "post-training needs the loss of a model, as .tasks.classification makes it: a jaxtl.types.ModelLoss; "
      "this one does not name its model"
    )
  parts_lib.check_blocks(loss_fn.model)
  return loss_fn


def _weak_batch(batch: Batch) -> Batch:
  if "weak" not in batch:
    raise ConfigError("the batch has no 'weak' batch, from which the rule computes its perturbation")
  return cast(Batch, batch["weak"])


def _entering(batch: Batch) -> Batch:
  """Returns the batch with the input of the network, hidden states or images, as its images."""
  rest = {name: x for name, x in batch.items() if name not in ("weak", "hidden")}
  return {**rest, "image": batch["hidden"]} if "hidden" in batch else rest


def _weak_logits(
  model: Model, parts: Parts, params: Params, batch_stats: Params, weak: Batch
) -> Callable[[Leaves], Array]:
  """Returns perturbed leaves -> logits of the weak batch, as at test time; the blocks below run only once."""
  state = weak["hidden"] if "hidden" in weak else weak["image"]
  below = parts.cut if "hidden" in weak else model.blocks[0]
  if below != parts.first_perturbed:
    features, _ = model.apply(params, batch_stats, state, start=below, stop=parts.first_perturbed)
    state = features["hidden"]

  def logits_of(leaves: Leaves) -> Array:
    return model.suffix(tree.replace(params, leaves), batch_stats, state, start=parts.first_perturbed)[
      "logits"
    ]

  return logits_of


def _given_logits(model: Model) -> Model:
  """Returns a model whose parameters are its logits, so that its loss is a function of the logits."""

  def apply(logits: Array, batch_stats: Params, images: Array, **_: Any) -> tuple[dict[str, Array], Params]:
    return {"logits": logits}, batch_stats

  return dataclasses.replace(model, apply=apply)
