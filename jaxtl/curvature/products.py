"""Products of a curvature matrix with a vector: functions from tree to tree, never a matrix.

`hvp`, `ggn`, `fisher` and `empirical_fisher` take functions of the parameters alone. The same names with
`_over_batches` return means over many batches, which are streamed once per product.

Both compute the loss on the way and refuse one that is not finite: the former at their first product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.curvature import streaming
from jaxtl.curvature.finite import check_floating, check_loss, check_params
from jaxtl.curvature.streaming import Batches
from jaxtl.errors import ConfigError
from jaxtl.types import Array, Params

Matvec = Callable[[Params], Params]


def hvp(loss: Callable[[Params], Array], params: Params) -> Matvec:
  """Returns v -> H v, H the Hessian of `loss` at `params`, as the derivative of the gradient along v.

  It is taken forward over reverse, at about twice the cost of a gradient and the memory of one. Pearlmutter,
  "Fast exact multiplication by the Hessian", 1994.

  Args:
    loss: params -> scalar.
    params: a tree of float arrays.

  Returns:
    A function from a tree like `params` to a tree like `params`, compiled at its first call.

  Raises:
    InputError: a parameter is not a float or not finite; the message names it.
    NonFiniteLossError: the loss is not finite; raised at the first product.
  """
  return _at(lambda params, vector: _along_gradient(loss, params, vector), params)


def ggn(predict: Callable[[Params], Any], loss: Callable[[Any], Array], params: Params) -> Matvec:
  """Returns v -> J^T H_L J v, with the generalised Gauss-Newton matrix J^T H_L J.

  This is the Hessian without the curvature of the network itself. J is the Jacobian of the outputs, H_L the
  Hessian of the loss with respect to them. The matrix is positive semi-definite if the loss is convex in the
  outputs, as the cross-entropy is. With the smoothed hinge, which is not convex, it is indefinite (see
  there). It is equal to the Hessian if the outputs are linear in the parameters. Schraudolph, "Fast curvature
  matrix-vector products for second-order gradient descent", 2002.

  Args:
    predict: params -> outputs, an array or a tree.
    loss: outputs -> scalar.
    params: a tree of float arrays.

  Returns:
    A function from a tree like `params` to a tree like `params`, compiled at its first call.

  Raises as `hvp` does.
  """
  return _at(lambda params, vector: _gauss_newton(predict, loss, params, vector), params)


def fisher(predict: Callable[[Params], Array], params: Params) -> Matvec:
  """Returns v -> F v, F the Fisher information of a softmax classifier, as the mean over its inputs.

  F = E_x E_{y ~ p(y|x)} [grad log p(y|x) grad log p(y|x)^T]: the label follows the model, as an expectation
  and not as a draw. F is the Gauss-Newton matrix of the cross-entropy, whatever the labels are. Martens, "New
  insights and perspectives on the natural gradient method", 2020, arXiv 1412.1193.

  Args:
    predict: params -> logits [B, K].
    params: a tree of float arrays.
  """
  return ggn(predict, lambda logits: jnp.mean(jax.nn.logsumexp(logits, axis=-1)), params)


def empirical_fisher(losses: Callable[[Params], Array], params: Params) -> Matvec:
  """Returns v -> (1/B) sum_i g_i <g_i, v>, the uncentred covariance of the gradients with the true labels.

  g_i is the gradient of example i, which is never formed by itself. This is not the Fisher information:
  Kunstner, Balles, Hennig, "Limitations of the empirical Fisher approximation", 2019, arXiv 1905.12558.

  Args:
    losses: params -> [B] one loss for each example, none of which depends on another example.
    params: a tree of float arrays.
  """

  def product(params: Params, vector: Params) -> tuple[Params, Array]:
    values, pullback = jax.vjp(losses, params)
    return pullback(_pushforward(pullback, values, vector) / values.size)[0], jnp.sum(values)

  return _at(product, params)


def restrict(matvec: Matvec, params: Params, *, where: str) -> Matvec:
  """Restricts a matrix to the diagonal block of some parameters, such as one layer or only the kernels.

  Args:
    matvec: v -> H v on trees like `params`.
    params: a tree of float arrays.
    where: a regex that matches the paths of the leaves to keep.

  Returns:
    A function from {path: array}, as made by `tree.select(params, where)`, to the same structure.

  Raises:
    ConfigError: `where` matches no leaf, is empty or is not a regex.
  """
  zeros = tree.zeros_like(params)
  _block(params, where)
  return lambda vector: tree.select(matvec(tree.replace(zeros, vector)), where)


def hvp_over_batches(
  loss_fn: Callable[[Params, Any], tuple[Array, Array]],
  params: Params,
  batches: Batches,
  *,
  where: str | None = None,
) -> Matvec:
  """Returns v -> H v, H the Hessian of the mean loss over all examples of all batches.

  Each batch takes one compiled call, with the sum on the device in float32 (or wider, if the parameters are):
  memory does not grow with the number of batches. The call is compiled once for a `loss_fn` and the shapes,
  also across several `params`. Batches of other shapes compile again: pad the last one, and leave its padding
  out of sum and count. Batches that are split over the devices of a mesh give the sums over all of them.

  Args:
    loss_fn: (params, batch) -> (sum of the losses over the batch's examples, their number), two scalars.
    params: a tree of float arrays.
    batches: the same batches for each product: a list, or a function that returns them on each call.
    where: a regex that matches the paths of the leaves to differentiate with respect to; None means all. The
      product is that of `restrict`, without the derivatives with respect to other leaves: the layers before
      the first chosen leaf are only evaluated. Each choice of leaves is compiled separately.

  Returns:
    A function from a tree like `params` to a tree like `params`; with `where`, from
    `tree.select(params, where)` to the same structure.

  Raises:
    ConfigError: `batches` is an iterator, which the first product would use up; or `where` matches no leaf,
      is empty or is not a regex.
    InputError: a parameter is not finite; the message names it.
    DataError: there are no batches, or no examples in them; raised at the product.
    NonFiniteLossError: the loss is not finite on a batch; raised at the product.
  """
  if where is None:
    return _over_batches(_summed_hvp, (loss_fn,), params, batches)
  return _over_batches(_summed_block_hvp, (loss_fn,), params, batches, like=_block(params, where))


def ggn_over_batches(
  predict: Callable[[Params, Any], Any],
  loss_fn: Callable[[Any, Any], tuple[Array, Array]],
  params: Params,
  batches: Batches,
  *,
  where: str | None = None,
) -> Matvec:
  """Returns v -> J^T H_L J v, the Gauss-Newton matrix of the mean loss over all examples of all batches.

  Args:
    predict: (params, batch) -> outputs.
    loss_fn: (outputs, batch) -> (sum of the losses over the batch's examples, their number), two scalars.
    params: a tree of float arrays.
    batches: the same batches for each product: a list, or a function that returns them on each call.
    where: a regex that matches the paths of the leaves of the product, as in `hvp_over_batches`.

  Returns and raises as `hvp_over_batches` does.
  """
  functions = predict, loss_fn
  if where is None:
    return _over_batches(_summed_ggn, functions, params, batches)
  return _over_batches(_summed_block_ggn, functions, params, batches, like=_block(params, where))


def fisher_over_batches(
  predict: Callable[[Params, Any], tuple[Array, Array]], params: Params, batches: Batches
) -> Matvec:
  """Returns v -> F v, F the Fisher information of a softmax classifier, over all examples of all batches.

  Args:
    predict: (params, batch) -> (logits [B, K], mask [B], False for padding).
    params: a tree of float arrays.
    batches: the same batches for each product: a list, or a function that returns them on each call.

  Returns and raises as `hvp_over_batches` does.
  """
  return _over_batches(_summed_fisher, (predict,), params, batches)


def empirical_fisher_over_batches(
  losses: Callable[[Params, Any], tuple[Array, Array]], params: Params, batches: Batches
) -> Matvec:
  """Returns v -> the mean of g_i <g_i, v> over all examples of all batches, with their true labels.

  Args:
    losses: (params, batch) -> (one loss for each example [B], mask [B], False for padding).
    params: a tree of float arrays.
    batches: the same batches for each product: a list, or a function that returns them on each call.

  Returns and raises as `hvp_over_batches` does.
  """
  return _over_batches(_summed_empirical_fisher, (losses,), params, batches)


def loss_over_batches(
  loss_fn: Callable[[Params, Any], tuple[Array, Array]], batches: Batches
) -> Callable[[Params], float]:
  """Returns params -> mean loss over all examples of all batches, streamed as in `hvp_over_batches`.

  Arguments and errors are those of `gradient_over_batches`.
  """
  stream = streaming.stream_of(batches)

  def value(params: Params) -> float:
    like = streaming.wide_scalar(params)
    found = float(streaming.mean(_summed_loss, (loss_fn,), like, params, stream, vector=()))
    check_loss(found, params)
    return found

  return value


def gradient_over_batches(
  loss_fn: Callable[[Params, Any], tuple[Array, Array]], batches: Batches
) -> Callable[[Params], tuple[float, Params]]:
  """Returns params -> (mean loss, its gradient) over all examples, streamed as in `hvp_over_batches`.

  Args:
    loss_fn: (params, batch) -> (sum of the losses over the batch's examples, their number), two scalars.
    batches: the same batches for each call: a list, or a function that returns them on each call.

  Raises:
    ConfigError, DataError: as `hvp_over_batches`.
    NonFiniteLossError: the mean loss is not finite; raised at the call. The message names the first parameter
      that is not finite, if there is one.
  """
  stream = streaming.stream_of(batches)

  def value_and_gradient(params: Params) -> tuple[float, Params]:
    check_floating(params)
    like = {"loss": streaming.wide_scalar(params), "gradient": params}
    mean = streaming.mean(_summed_gradient, (loss_fn,), like, params, stream, vector=())
    check_loss(loss := float(mean["loss"]), params)
    return loss, mean["gradient"]

  return value_and_gradient


def _gauss_newton(
  predict: Callable[[Params], Any], loss: Callable[[Any], Array], params: Params, vector: Params
) -> tuple[Params, Array]:
  """Returns (J^T H_L J v, the loss)."""
  outputs, pullback = jax.vjp(predict, params)
  product, value = _along_gradient(loss, outputs, _pushforward(pullback, outputs, vector))
  return pullback(product)[0], value


def _along_gradient(loss: Callable[[Any], Array], params: Any, vector: Any) -> tuple[Any, Array]:
  """Returns (the derivative of the gradient along a vector, the loss)."""

  def gradient(params: Any) -> tuple[Any, Array]:
    value, slope = jax.value_and_grad(loss)(params)
    return slope, value

  _, product, value = jax.jvp(gradient, (params,), (vector,), has_aux=True)
  return product, value


def _pushforward(pullback: Callable[[Any], tuple[Params]], outputs: Any, vector: Params) -> Any:
  """Computes J v by transposing u -> J^T u: the models' own convolution gradients have no forward mode."""
  return jax.linear_transpose(pullback, outputs)((vector,))[0]


def _summed_hvp(loss_fn: Callable[..., Any], params: Params, batch: Any, vector: Params) -> tuple[Any, Array]:
  def gradient(params: Params) -> tuple[Params, tuple[Array, Array]]:
    both, slope = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
    return slope, both

  _, product, (loss, examples) = jax.jvp(gradient, (params,), (vector,), has_aux=True)
  return _with_fault(product, loss), examples


def _summed_block_hvp(
  loss_fn: Callable[..., Any], params: Params, batch: Any, vector: dict[str, Array]
) -> tuple[Any, Array]:
  """Computes `_summed_hvp` for the leaves that `vector` names; the others are constants."""
  of_block = lambda block, batch: loss_fn(tree.replace(params, block), batch)  # noqa: E731
  return _summed_hvp(of_block, _named(params, vector), batch, vector)


def _summed_ggn(
  predict: Callable[..., Any], loss_fn: Callable[..., Any], params: Params, batch: Any, vector: Params
) -> tuple[Any, Array]:
  product, loss = _gauss_newton(
    lambda params: predict(params, batch), lambda outputs: loss_fn(outputs, batch)[0], params, vector
  )
  return _with_fault(product, loss), loss_fn(predict(params, batch), batch)[1]


def _summed_block_ggn(
  predict: Callable[..., Any],
  loss_fn: Callable[..., Any],
  params: Params,
  batch: Any,
  vector: dict[str, Array],
) -> tuple[Any, Array]:
  """Computes `_summed_ggn` for the leaves that `vector` names; the others are constants."""
  of_block = lambda block, batch: predict(tree.replace(params, block), batch)  # noqa: E731
  return _summed_ggn(of_block, loss_fn, _named(params, vector), batch, vector)


def _block(params: Params, where: str) -> dict[str, Array]:
  """Returns the leaves that `where` matches; refuses an empty one, which would match all by mistake."""
  if not where:
    raise ConfigError("where is an empty text; write a regex of the parameters, or None for all of them")
  return tree.select(params, where)


def _named(params: Params, vector: dict[str, Array]) -> dict[str, Array]:
  """Returns the leaves that a vector names."""
  leaves = dict(zip(tree.paths(params), jax.tree.leaves(params), strict=True))
  return {path: leaves[path] for path in vector}


def _summed_fisher(
  predict: Callable[..., Any], params: Params, batch: Any, vector: Params
) -> tuple[Any, Array]:
  mask = predict(params, batch)[1]
  loss = lambda logits: jnp.sum(jax.nn.logsumexp(logits, axis=-1), where=mask)  # noqa: E731
  product, value = _gauss_newton(lambda params: predict(params, batch)[0], loss, params, vector)
  return _with_fault(product, value), jnp.sum(mask)


def _summed_empirical_fisher(
  losses: Callable[..., Any], params: Params, batch: Any, vector: Params
) -> tuple[Any, Array]:
  values, pullback, mask = jax.vjp(lambda params: losses(params, batch), params, has_aux=True)
  along = _pushforward(pullback, values, vector)
  product = pullback(jnp.where(mask, along, 0))[0]
  return _with_fault(product, jnp.sum(values, where=mask)), jnp.sum(mask)


def _summed_loss(loss_fn: Callable[..., Any], params: Params, batch: Any, _: Any) -> tuple[Any, Array]:
  return loss_fn(params, batch)


def _summed_gradient(loss_fn: Callable[..., Any], params: Params, batch: Any, _: Any) -> tuple[Any, Array]:
  (loss, examples), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
  return {"loss": loss, "gradient": gradient}, examples


def _with_fault(product: Params, loss: Array) -> dict[str, Any]:
  """Adds a fault to a product, 0 if the loss is finite; the sum over batches is 0 if every loss is finite."""
  return {"product": product, "fault": jnp.where(jnp.isfinite(loss), 0, loss).astype(jnp.float32)}


def _at(product: Callable[[Params, Params], tuple[Params, Array]], params: Params) -> Matvec:
  """Returns v -> product(params, v) without its loss, which is checked once, as it is the same for all v."""
  check_params(params)
  compiled, checked = jax.jit(product), False

  def matvec(vector: Params) -> Params:
    nonlocal checked
    found, loss = compiled(params, vector)
    if not checked and not isinstance(loss, jax.core.Tracer):
      check_loss(loss, params)
      checked = True
    return found

  return matvec


def _over_batches(
  product: Callable[..., Any],
  functions: Any,
  params: Params,
  batches: Batches,
  *,
  like: Params | None = None,
) -> Matvec:
  """Returns v -> the mean of `product`, in the types of `like`, or of `params` if `like` is None."""
  stream = streaming.stream_of(batches)
  check_params(params)
  of_product = params if like is None else like
  like = {"product": of_product, "fault": streaming.scalar(params, jnp.float32)}

  def matvec(vector: Params) -> Params:
    vector = streaming.placed(vector, of_product)
    found = streaming.mean(product, functions, like, params, stream, vector=vector)
    check_loss(found["fault"], params)
    return found["product"]

  return matvec
