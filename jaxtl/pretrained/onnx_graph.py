"""Export of a weight as an ONNX graph, which onnxruntime and other runtimes execute without jaxtl and JAX.

The graph is made from the traced program of the model, one operation after the other. Operations on weights
alone are computed here. ONNX, opset 18: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.models.kernels.backend import portable
from jaxtl.pretrained import stablehlo
from jaxtl.types import Model

OPSET, IR_VERSION = 18, 9
# A protocol buffer holds at most 2 GiB.
_MOST_BYTES = 2_000_000_000
# Operations of one or two arrays that ONNX has under another name.
_SAME = {
  **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow"},
  **{"exp": "Exp", "log": "Log", "tanh": "Tanh", "erf": "Erf", "sqrt": "Sqrt", "logistic": "Sigmoid"},
  **{"neg": "Neg", "abs": "Abs"},
}
_ALIASES = ("stop_gradient", "copy", "optimization_barrier")


def serialized(model: Model, weights: Weights, preprocessing: Preprocessing) -> bytes:
  """Serialises the graph uint8 [b, S, S, 3] -> logits [b, K], pooled [b, D], for any b.

  Arguments are those of `stablehlo.serialized`; the normalisation is part of the graph here, too.

  Raises:
    InputError: the package onnx is missing, an operation of the model has no form in ONNX, or the weights
      are too large for one file.
  """
  onnx = _onnx()
  size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves((weights.params, weights.batch_stats)))
  if size > _MOST_BYTES:
    raise InputError(
      f"the weights have {size / 1e9:.1f} GB, and an ONNX file holds less than 2 GB; export them as stablehlo"
    )
  side = preprocessing.size
  (batch,) = jax.export.symbolic_shape("b")
  images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
  with portable():
    program, shapes = jax.make_jaxpr(stablehlo.predictor(model, weights, preprocessing), return_shape=True)(
      images
    )
  graph = _Graph("images")
  results = graph.run(program.jaxpr, program.consts, ["images"])
  outputs = []
  for name, result in zip(sorted(shapes), results, strict=True):
    graph.add("Identity", [graph.name(result)], output=name)
    shape = ["b", *shapes[name].shape[1:]]
    outputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
  inputs = [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", side, side, 3])]
  made = onnx.helper.make_graph(graph.nodes, model.name, inputs, outputs, graph.constants)
  opsets = [onnx.helper.make_opsetid("", OPSET)]
  proto = onnx.helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="jaxtl")
  onnx.checker.check_model(proto)
  content: bytes = proto.SerializeToString()
  return content


def _onnx() -> Any:
  try:
    import onnx
  except ImportError as error:
    raise InputError("--format onnx needs the package onnx; pip install 'jaxtl[onnx]'") from error
  return onnx


class _Graph:
  """A graph that is being made; its values are names of tensors, or numpy arrays if they are constant.

  Args:
    images: name of the input, whose first axis is the batch.
  """

  def __init__(self, images: str):
    self.onnx = _onnx()
    self.nodes: list[Any] = []
    self.constants: list[Any] = []
    self._names: dict[int, tuple[Any, str]] = {}
    self._images = images

  def add(self, kind: str, inputs: Sequence[Any], *, output: str = "", **attributes: Any) -> str:
    """Adds a node, and returns the name of its output."""
    output = output or f"t{len(self.nodes)}"
    names = [self.name(value) for value in inputs]
    self.nodes.append(self.onnx.helper.make_node(kind, names, [output], **attributes))
    return output

  def name(self, value: Any) -> str:
    """Returns the name of a tensor; stores a constant once."""
    if isinstance(value, str):
      return value
    if id(value) not in self._names:
      name = f"c{len(self.constants)}"
      self._names[id(value)] = value, name  # with the array, so that its id stays taken
      self.constants.append(
        self.onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
      )
    return self._names[id(value)][1]

  def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Adds a whole program, and returns its results."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(var: Any) -> Any:
      return np.asarray(var.val, var.aval.dtype) if hasattr(var, "val") else values[var]

    for equation in jaxpr.eqns:
      given = [read(var) for var in equation.invars]
      values.update(zip(equation.outvars, self._equation(equation, given), strict=True))
    return [read(var) for var in jaxpr.outvars]

  def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in _ALIASES:
      return given
    inner = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
    if inner is not None and name != "while":
      closed = hasattr(inner, "jaxpr")
      return self.run(inner.jaxpr if closed else inner, inner.consts if closed else (), given)
    result = equation.outvars[0].aval
    if all(isinstance(value, np.ndarray) for value in given) and _is_fixed(result.shape):
      return [np.asarray(equation.primitive.bind(*map(jnp.asarray, given), **params))]
    if name in _SAME:
      return [self.add(_SAME[name], given)]
    if name not in _WRITERS:
      raise InputError(
        f"the export to ONNX has no form of the operation {name!r}; export the model as stablehlo"
      )
    return [_WRITERS[name](self, equation, given)]

  def reshape(self, x: Any, shape: Sequence[Any]) -> str:
    """Reshapes to a shape of which at most one size depends on the batch."""
    return self.add("Reshape", [x, np.array([d if isinstance(d, int) else -1 for d in shape], np.int64)])

  def transpose(self, x: Any, order: Sequence[int]) -> Any:
    if isinstance(x, np.ndarray):
      return np.transpose(x, order)
    return x if list(order) == sorted(order) else self.add("Transpose", [x], perm=list(order))

  def expand(self, x: Any, shape: Sequence[Any]) -> str:
    """Broadcasts to a shape of which sizes may be that of the batch."""
    whole = self.add("Shape", [self._images], start=0, end=1)
    parts = [np.array([d], np.int64) if isinstance(d, int) else whole for d in shape]
    if any(not isinstance(d, int) and str(d) != "b" for d in shape):
      raise InputError("a size in this model is not the batch's; export it as stablehlo")
    return self.add("Expand", [x, self.add("Concat", parts, axis=0)])


def _is_fixed(shape: Sequence[Any]) -> bool:
  return all(isinstance(size, int) for size in shape)


def _reshape(graph: _Graph, equation: Any, given: list[Any]) -> str:
  return graph.reshape(given[0], equation.outvars[0].aval.shape)


def _broadcast(graph: _Graph, equation: Any, given: list[Any]) -> Any:
  shape, axes = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
  own = equation.invars[0].aval.shape
  wide: list[Any] = [1] * len(shape)
  for axis, size in zip(axes, own, strict=True):
    wide[axis] = size
  x = graph.reshape(given[0], wide)
  return x if tuple(map(str, wide)) == tuple(map(str, shape)) else graph.expand(x, shape)


def _transpose(graph: _Graph, equation: Any, given: list[Any]) -> Any:
  return graph.transpose(given[0], equation.params["permutation"])


def _reduce(kind: str) -> Callable[[_Graph, Any, list[Any]], str]:
  def write(graph: _Graph, equation: Any, given: list[Any]) -> str:
    return graph.add(kind, [given[0], np.array(equation.params["axes"], np.int64)], keepdims=0)

  return write


def _dot(graph: _Graph, equation: Any, given: list[Any]) -> str:
  (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
  ranks = [len(var.aval.shape) for var in equation.invars]
  if not left_batch and ranks[1] == 2 and tuple(left) == (ranks[0] - 1,) and tuple(right) == (0,):
    return graph.add("MatMul", given)
  letters = iter(string.ascii_lowercase)
  first = [next(letters) for _ in range(ranks[0])]
  second = [next(letters) for _ in range(ranks[1])]
  for a, b in [*zip(left, right), *zip(left_batch, right_batch)]:
    second[b] = first[a]
  batch = [first[axis] for axis in left_batch]
  free = [first[axis] for axis in range(ranks[0]) if axis not in (*left, *left_batch)]
  free += [second[axis] for axis in range(ranks[1]) if axis not in (*right, *right_batch)]
  text = f"{''.join(first)},{''.join(second)}->{''.join(batch + free)}"
  return graph.add("Einsum", given, equation=text)


def _conv(graph: _Graph, equation: Any, given: list[Any]) -> Any:
  params = equation.params
  numbers = params["dimension_numbers"]
  if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
    raise InputError("a transposed convolution has no form in this export; export the model as stablehlo")
  padding = params["padding"]
  y = graph.add(
    "Conv",
    [graph.transpose(given[0], numbers.lhs_spec), graph.transpose(given[1], numbers.rhs_spec)],
    strides=list(params["window_strides"]),
    dilations=list(params["rhs_dilation"]),
    group=params["feature_group_count"],
    pads=[low for low, _ in padding] + [high for _, high in padding],
  )
  return graph.transpose(y, np.argsort(numbers.out_spec).tolist())


def _pool(kind: str) -> Callable[[_Graph, Any, list[Any]], Any]:
  def write(graph: _Graph, equation: Any, given: list[Any]) -> Any:
    params = equation.params
    window, padding = params["window_dimensions"], params["padding"]
    if window[0] != 1 or window[-1] != 1 or set(params["base_dilation"]) != {1}:
      raise InputError("this kind of pooling has no form in this export; export the model as stablehlo")
    more: dict[str, Any] = {"count_include_pad": 1} if kind == "AveragePool" else {}
    y = graph.add(
      kind,
      [graph.transpose(given[0], [0, 3, 1, 2])],
      kernel_shape=list(window[1:3]),
      strides=list(params["window_strides"][1:3]),
      pads=[low for low, _ in padding[1:3]] + [high for _, high in padding[1:3]],
      **more,
    )
    if kind == "AveragePool":
      y = graph.add("Mul", [y, np.float32(math.prod(window)).reshape(())])
    return graph.transpose(y, [0, 2, 3, 1])

  return write


def _gather(graph: _Graph, equation: Any, given: list[Any]) -> Any:
  """Writes an indexing by constants: one block of an array, or a grid of positions of some axes."""
  numbers, index = equation.params["dimension_numbers"], given[1]
  sizes, shape = equation.params["slice_sizes"], equation.invars[0].aval.shape
  axes = tuple(numbers.start_index_map)
  others = [axis for axis in range(len(shape)) if axis not in axes]
  if not isinstance(index, np.ndarray) or any(str(sizes[axis]) != str(shape[axis]) for axis in others):
    raise _no_indexing()
  if index.ndim == 1:
    ends = index + np.array([sizes[axis] for axis in axes])
    where = [np.asarray(each, np.int64) for each in (index, ends, axes)]
    return graph.reshape(graph.add("Slice", [given[0], *where]), equation.outvars[0].aval.shape)
  positions = [np.unique(index[..., k]) for k in range(len(axes))]
  grid = np.stack(np.meshgrid(*positions, indexing="ij"), axis=-1)
  if axes != tuple(numbers.collapsed_slice_dims) or not np.array_equal(grid, index):
    raise _no_indexing()
  if tuple(numbers.offset_dims) != tuple(others):
    raise _no_indexing()
  x = given[0]
  for axis, each in zip(axes, positions):
    x = graph.add("Gather", [x, each.astype(np.int64)], axis=axis)
  return x


def _no_indexing() -> InputError:
  return InputError("this kind of indexing has no form in this export; export the model as stablehlo")


def _slice(graph: _Graph, equation: Any, given: list[Any]) -> str:
  params, shape = equation.params, equation.invars[0].aval.shape
  steps = params["strides"] or (1,) * len(shape)
  cut = [axis for axis, size in enumerate(shape) if isinstance(size, int)]
  values = ([each[axis] for axis in cut] for each in (params["start_indices"], params["limit_indices"]))
  starts, ends = (np.array(one, np.int64) for one in values)
  strides = np.array([steps[axis] for axis in cut], np.int64)
  return graph.add("Slice", [given[0], starts, ends, np.array(cut, np.int64), strides])


def _pad(graph: _Graph, equation: Any, given: list[Any]) -> str:
  config = equation.params["padding_config"]
  if any(inside or low < 0 or high < 0 for low, high, inside in config):
    raise InputError("this kind of padding has no form in this export; export the model as stablehlo")
  pads = np.array([low for low, _, _ in config] + [high for _, high, _ in config], np.int64)
  return graph.add("Pad", [given[0], pads, given[1]])


def _cast(graph: _Graph, equation: Any, given: list[Any]) -> str:
  kind = graph.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
  return graph.add("Cast", given, to=kind)


def _rsqrt(graph: _Graph, equation: Any, given: list[Any]) -> str:
  return graph.add("Reciprocal", [graph.add("Sqrt", given)])


def _integer_pow(graph: _Graph, equation: Any, given: list[Any]) -> str:
  exponent = np.array(equation.params["y"], equation.invars[0].aval.dtype)
  return graph.add("Pow", [given[0], exponent])


_WRITERS: dict[str, Callable[[_Graph, Any, list[Any]], Any]] = {
  "broadcast_in_dim": _broadcast,
  "clamp": lambda graph, _, given: graph.add("Max", [given[0], graph.add("Min", [given[1], given[2]])]),
  "concatenate": lambda graph, equation, given: graph.add("Concat", given, axis=equation.params["dimension"]),
  "conv_general_dilated": _conv,
  "convert_element_type": _cast,
  "dot_general": _dot,
  "expand_dims": _reshape,
  "gather": _gather,
  "integer_pow": _integer_pow,
  "pad": _pad,
  "reduce_max": _reduce("ReduceMax"),
  "reduce_sum": _reduce("ReduceSum"),
  "reduce_window_max": _pool("MaxPool"),
  "reduce_window_sum": _pool("AveragePool"),
  "reshape": _reshape,
  "rsqrt": _rsqrt,
  "slice": _slice,
  "square": lambda graph, _, given: graph.add("Mul", [given[0], given[0]]),
  "squeeze": _reshape,
  "transpose": _transpose,
}
