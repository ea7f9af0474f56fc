"""The training step: one pure function for every study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtl import optim, tree
from jaxtl.optim.gradients import init_memory
from jaxtl.train import compiled
from jaxtl.types import Array, Batch, GradientRule, LossFn, Metrics, Model, Params, TrainState

Step = Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]


def init_state(
  params: Params, batch_stats: Params, tx: optax.GradientTransformation, *, gradient: GradientRule
) -> TrainState:
  """Returns the state before the first step."""
  return TrainState(
    jnp.zeros([], jnp.int32), params, batch_stats, tx.init(params), init_memory(gradient, params)
  )


def make_train_step(loss_fn: LossFn, tx: optax.GradientTransformation, *, gradient: GradientRule) -> Step:
  """Makes the step (state, batch, key) -> (state, metrics), to be jitted with the state donated.

  Noise is a function of (key, state.step), so that a resumed run draws the same as an uninterrupted one.

  Args:
    loss_fn: (params, batch_stats, batch, key) -> (mean loss, Aux).
    tx: any optax transformation.
    gradient: any gradient rule.
  """
  value_and_grad = gradient(loss_fn)

  def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(key, state.step)
    (loss, aux), grads = value_and_grad(state.params, state.batch_stats, batch, key, *state.memory)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = aux.metrics | {"loss": loss, "grad_norm": tree.norm(grads)}
    if (rate := optim.current_rate(opt_state)) is not None:
      metrics["rate"] = rate
    return TrainState(state.step + 1, params, aux.batch_stats, opt_state, aux.memory), metrics

  return train_step


def skip_nonfinite(train_step: Step) -> Step:
  """Wraps a step so that it changes only the step count if the loss or the gradient is not finite.

  The state is bit for bit that of a run that never saw the batch; only `step` advances, since it is the
  position in the data. The metric `skipped` marks such steps.
  """

  def careful_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
    after, metrics = train_step(state, batch, key)
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    kept = dataclasses.replace(state, step=after.step)
    chosen = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, kept)
    return chosen, metrics | {"skipped": 1.0 - good}

  return careful_step


def init_model(model: Model, key: Array, image_shape: tuple[int, ...]) -> tuple[Params, Params]:
  """Initialises (params, batch_stats) for images [1, H, W, 3]."""
  return _jitted_init(model, tuple(image_shape))(key)


@compiled.kept
def _jitted_init(model: Model, image_shape: tuple[int, ...]) -> Callable[[Array], tuple[Params, Params]]:
  return jax.jit(lambda key: model.init(key, jnp.zeros((1, *image_shape), jnp.float32)))


def shapes_of(model: Model, inputs: Sequence[int]) -> Any:
  """Returns {"params", "batch_stats"} of a model as shapes, without computing anything.

  Args:
    model: a model of jaxtl.
    inputs: shape of one input: (224, 224, 3) for images, (77,) for token ids.
  """
  one = jax.ShapeDtypeStruct((1, *inputs), jnp.float32 if len(inputs) == 3 else jnp.int32)
  params, batch_stats = jax.eval_shape(model.init, jax.random.key(0), one)
  return {"params": params, "batch_stats": batch_stats}
