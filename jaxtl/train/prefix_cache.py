"""A cache of the hidden state of every training image: training then runs only the blocks above it.

The cache is legal if the network below the cut is a fixed function of the image. Under a rule that moves a
part of the network, the blocks below the cut always run as at test time, with stored statistics and without
dropout. Only augmentation can vary then; a fixed number of views per image may be cached.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import optim
from jaxtl.errors import ConfigError, StorageError
from jaxtl.host.files import existing, size_text
from jaxtl.host.processes import gather_texts, whole
from jaxtl.train import sharding
from jaxtl.train.experiment import Program
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Array, TrainState

WHERE = ("auto", "none", "device", "host", "memmap")
# Added to the seed for view k, so that its noise is that of another run, as for the weak batch.
VIEWS = 2**33
# The part of free memory that a requested cache may take, since the rest of the run needs some, and the part
# that a cache may take if "auto" decides.
SHARE, AUTO_SHARE = 0.9, 0.5


@dataclasses.dataclass(frozen=True)
class PrefixCache:
  """The settings of the cache: whether, where and how hidden states are stored.

  Attributes:
    where: "device", whole in the memory of every device; "host", in that of every process; "memmap", in a
      file that vanishes with the process; "none"; or "auto": "host" if it is legal and takes at most half of
      the free memory, else "none".
    views: number of augmented views per image, all cached; 1 needs transforms that do not draw.
    dtype: "float32" or "bfloat16", which takes half as much; the gradient then differs by about 1e-3.
    folder: of the file; None means that of the run, or the system's folder for temporary files.
  """

  where: Literal["auto", "none", "device", "host", "memmap"] = "auto"
  views: int = 1
  dtype: Literal["float32", "bfloat16"] = "float32"
  folder: Path | None = None

  def __post_init__(self) -> None:
    config_lib.require(
      where=(self.where, self.where in WHERE, f"one of {', '.join(WHERE)}"),
      views=(self.views, self.views >= 1, "at least 1"),
      dtype=(self.dtype, self.dtype in ("float32", "bfloat16"), "'float32' or 'bfloat16'"),
    )


def check_legal(cache: PrefixCache, program: Program, state: TrainState, data: Data) -> None:
  """Raises a ConfigError if a cache is requested and the network below the cut is not fixed.

  Args:
    state: of the program; arrays or shapes.
  """
  problem = "" if cache.where in ("none", "auto") else _obstacle(cache, program, state, data)
  if problem:
    raise ConfigError(f"no hidden states can be kept: {problem}; or write where='none'")


def plan(
  cache: PrefixCache | None,
  program: Program,
  state: TrainState,
  data: Data,
  runtime: Runtime,
  *,
  folder: Path | None = None,
  begun: Mapping[str, Any] | None = None,
) -> PrefixCache | None:
  """Returns the cache with its `where` decided, the same on every process; None if nothing is to be cached.

  If a part of the network stays fixed and "auto" caches nothing, the log says why.

  Args:
    state: of the program; arrays or shapes.
    folder: of the run, for a file without another folder.
    begun: the config in the checkpoint of a resumed run: "auto" then decides as before, even if another
      amount of memory is free now.

  Raises:
    ConfigError: a cache is requested and is not legal.
  """
  if cache is None or cache.where == "none":
    return None
  check_legal(cache, program, state, data)
  decided = dataclasses.replace(cache, folder=cache.folder or folder)
  if cache.where == "auto":
    decided = dataclasses.replace(decided, where="host")
    if begun is not None:
      return decided if begun.get("prefix_cache") else None
    return decided if _suits(decided, program, state, data, runtime) else None
  return decided


def check_room(cache: PrefixCache, program: Program, state: TrainState, data: Data, runtime: Runtime) -> None:
  """Refuses a cache that does not fit, before anything is computed.

  Raises:
    ConfigError: it does not fit into the memory.
    StorageError: it does not fit onto the disk.
  """
  _store(cache, program, state, data, runtime).check_room()


def _suits(cache: PrefixCache, program: Program, state: TrainState, data: Data, runtime: Runtime) -> bool:
  """Returns whether a cache that was not requested is legal and leaves enough memory."""
  if optim.cut_block(program.gradient, program.model, state.params) is None:
    return False
  problem = _obstacle(cache, program, state, data)
  problem = problem or _store(cache, program, state, data, runtime).lack(AUTO_SHARE)
  if problem:
    runtime.progress.note(f"no hidden states are kept: {problem}")
  return not problem


def entering(program: Program, state: TrainState, image_shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  """Returns the shape [1, ...] and type of one hidden state at the cut; `state` has arrays or shapes."""
  block = optim.cut_block(program.gradient, program.model, state.params)
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return jax.eval_shape(
    lambda params, stats, x: program.model.prefix(params, stats, x, stop=str(block)),
    *(state.params, state.batch_stats, image),
  )


def num_bytes(cache: PrefixCache, program: Program, state: TrainState, data: Data, runtime: Runtime) -> int:
  """Returns the bytes that the hidden states of all views of all images take."""
  return _store(cache, program, state, data, runtime).num_bytes


def _store(
  cache: PrefixCache, program: Program, state: TrainState, data: Data, runtime: Runtime
) -> HiddenStateStore:
  hidden = entering(program, state, runtime.image_shape(data))
  return HiddenStateStore(
    cache, len(runtime.open(data)), data.batch_size, hidden.shape[1:], hidden.dtype, runtime.mesh
  )


def keep(
  cache: PrefixCache, program: Program, state: TrainState, data: Data, runtime: Runtime, *, seed: int
) -> HiddenStateStore:
  """Computes and caches the hidden states of all views of all images.

  Args:
    cache: from `plan`.
    state: has the weights below the cut, from any step, since they do not move.
    seed: of the run, from which the views are drawn.

  Raises:
    ConfigError: it does not fit into the memory; the message says how much is needed and how much is free.
    StorageError: it does not fit onto the disk.
  """
  block = optim.cut_block(program.gradient, program.model, state.params)
  assert block is not None
  prefix = lambda params, stats, x: program.model.prefix(params, stats, x, stop=block)  # noqa: E731
  kept = _store(cache, program, state, data, runtime)
  kept.make_room()
  rows = jax.jit(
    lambda params, stats, x: prefix(params, stats, x).astype(cache.dtype),
    out_shardings=sharding.replicated(runtime.mesh),
  )
  for view in range(cache.views):
    for number, batch in enumerate(runtime.eval_batches(data, seed=seed + VIEWS + view)):
      there = sharding.put_batch(batch, runtime.mesh)
      kept.write(view, number, rows(state.params, state.batch_stats, there["image"]), there)
  runtime.progress.note(f"kept {kept}: what enters {block}")
  return kept


class HiddenStateStore:
  """The cached hidden states of a data set, as a `feed.BatchStream`.

  Row `view * padded + i` is image i in that view; `padded` is the number of images rounded up to whole
  batches.

  Args:
    cache: where and in which type.
    num_examples: of the data set.
    batch_size: of the batches that are written.
    shape, dtype: of one hidden state as the network makes it.
    mesh: the devices.
  """

  def __init__(
    self,
    cache: PrefixCache,
    num_examples: int,
    batch_size: int,
    shape: tuple[int, ...],
    dtype: Any,
    mesh: Any,
  ):
    self._cache, self._count, self._batch, self._mesh = cache, num_examples, batch_size, mesh
    self._padded = -(-num_examples // batch_size) * batch_size
    self._shape = (cache.views * self._padded, *shape)
    self._stored, self._dtype = jnp.dtype(cache.dtype), jnp.dtype(dtype)
    self._states: Any = None
    self._read = _reader(mesh, self._dtype)

  def __str__(self) -> str:
    return f"{self._count * self._cache.views} hidden states, {size_text(self.num_bytes)}"

  @property
  def num_bytes(self) -> int:
    """The size of the states in bytes."""
    return math.prod(self._shape) * self._stored.itemsize

  def lack(self, share: float) -> str:
    """Says why the states do not fit into a share of the free memory of every process; "" if they do."""
    where = self._cache.where
    free = _least(_free_on_device(self._mesh) if where == "device" else free_memory())
    if free is None or self.num_bytes <= share * free:
      return ""
    return (
      f"{self} do not fit into the {where}'s memory, of which {size_text(int(free))} are free, and "
      f"{share:.0%} of these may be taken"
    )

  def check_room(self) -> None:
    """Raises the errors of the function `check_room`."""
    where = self._cache.where
    if where == "memmap":
      _check_disk(self._folder, self.num_bytes)
    elif problem := self.lack(SHARE):
      raise ConfigError(
        f"{problem}; write {'where=' + repr('host') + ' or ' if where == 'device' else ''}where='memmap', "
        "dtype='bfloat16', fewer views or where='none'"
      )

  def make_room(self) -> None:
    """Allocates the empty store; raises as `check_room` does."""
    self.check_room()
    self._label = np.zeros(self._shape[0], np.int32)
    self._mask = np.zeros(self._shape[0], bool)
    if self._cache.where == "memmap":
      self._states = _file(self._folder, self._shape, self._stored)
    elif self._cache.where == "host":
      self._states = np.zeros(self._shape, self._stored)
    else:
      everywhere = sharding.replicated(self._mesh)
      self._states = jax.jit(lambda: jnp.zeros(self._shape, self._stored), out_shardings=everywhere)()

  @property
  def _folder(self) -> Path:
    return self._cache.folder or Path(tempfile.gettempdir())

  def write(self, view: int, number: int, states: Array, batch: Mapping[str, Array]) -> None:
    """Stores batch `number` of a view; `states` is whole on every device."""
    first = view * self._padded + number * self._batch
    rows = slice(first, first + self._batch)
    self._label[rows], self._mask[rows] = whole(batch["label"]), whole(batch["mask"])
    if isinstance(self._states, np.ndarray):
      self._states[rows] = np.asarray(states)
    else:
      self._states = _written(self._states, states, first)

  def train_batches(self, *, batch_size: int, seed: int, start_step: int) -> Iterator[dict[str, Any]]:
    """Yields the stream of `data.train_batches` as hidden states; each epoch has another view of an image."""
    for step in itertools.count(start_step):
      positions, examples = self._order(data_lib.train_order, self._count, batch_size, seed, step)
      views = (positions // self._count + examples) % self._cache.views
      yield self._rows(views * self._padded + examples)

  def resampled_batches(self, *, batch_size: int, seed: int, start_step: int) -> Iterator[dict[str, Any]]:
    """Yields the stream of `data.resampled_batches` as hidden states of any view."""
    for step in itertools.count(start_step):
      count = self._count * self._cache.views
      _, chosen = self._order(data_lib.resampled_order, count, batch_size, seed, step)
      yield self._rows(chosen // self._count * self._padded + chosen % self._count)

  def _order(
    self,
    order: Callable[..., tuple[np.ndarray, np.ndarray]],
    count: int,
    batch_size: int,
    seed: int,
    step: int,
  ) -> tuple[np.ndarray, np.ndarray]:
    shard = (jax.process_index(), jax.process_count())
    return order(count, batch_size=batch_size, seed=seed, step=step, shard=shard)

  def _rows(self, rows: np.ndarray) -> dict[str, Any]:
    """Returns the batch with these rows [b] of this process; hidden states are global device arrays."""
    on_host = isinstance(self._states, np.ndarray)
    chosen = sharding.put_batch({"x": self._states[rows] if on_host else rows}, self._mesh)["x"]
    hidden = self._read(None if on_host else self._states, chosen)
    return {"hidden": hidden, "label": self._label[rows], "mask": self._mask[rows]}


def _obstacle(cache: PrefixCache, program: Program, state: TrainState, data: Data) -> str:
  """Says why the network below the cut is not a fixed function of the image; "" if it is."""
  block = optim.cut_block(program.gradient, program.model, state.params)
  if block is None:
    return "the gradient rule moves the whole network, so that nothing stays fixed; write .optim.pol"
  if others := set(program.task.inputs(1)) - {"image", "label"}:
    return f"the task reads {', '.join(sorted(others))}, and only labels are kept with hidden states"
  transforms = [spec.realize() for spec in data.transforms]
  drawing = [spec.path for spec, one in zip(data.transforms, transforms) if data_lib.draws([one])]
  if block == program.model.blocks[0]:
    return f"nothing lies below {block!r}, the lowest block that is perturbed or moved"
  if data.batch_transforms:
    return f"{data.batch_transforms[0].path} mixes images, which is not mixing hidden states; leave it out"
  if drawing and cache.views == 1:
    return f"{drawing[0]} draws at random; leave it out, or keep several views of each image with views=4"
  if cache.views > 1 and not drawing:
    return (
      f"views is {cache.views}, and no transform draws at random, so that all are the same; write views=1"
    )
  return ""


def free_memory() -> float | None:
  """Returns the bytes of memory that are available on this machine; None if the system does not say."""
  try:
    with open("/proc/meminfo", encoding="ascii") as file:
      lines = dict(line.split(":", 1) for line in file)
    return float(lines["MemAvailable"].split()[0]) * 1024
  except (OSError, KeyError, ValueError, IndexError):
    return None


def _free_on_device(mesh: Any) -> float | None:
  """Returns the free bytes on this process's device with the least free memory."""
  found = [device.memory_stats() for device in mesh.local_devices]
  if not all(stats and "bytes_limit" in stats for stats in found):
    return free_memory()  # the CPU's devices share the machine's
  return min(float(stats["bytes_limit"] - stats.get("bytes_in_use", 0)) for stats in found)


def _least(number: float | None) -> float | None:
  """Returns the least number over all processes that know one."""
  return min(
    (float(text) for text in gather_texts("" if number is None else str(number)) if text), default=None
  )


def _check_disk(folder: Path, size: int) -> None:
  free = shutil.disk_usage(existing(folder)).free
  if size > free:
    raise StorageError(
      f"{size_text(size)} of hidden states do not fit into {folder}, where {size_text(free)} are free; free "
      "space, give another folder, write dtype='bfloat16', fewer views or where='none'"
    )


def _file(folder: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Makes an array in an unnamed file, which disappears with the process, however that ends."""
  size = math.prod(shape) * dtype.itemsize
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
      # Allocated now: a hole that the disk cannot fill later would kill the process without a message.
      if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
      return np.memmap(file, dtype, "r+", shape=shape)
  except OSError as error:
    raise StorageError(f"hidden states cannot be kept in {folder}: {error.strerror or error}") from error


def _written(states: Array, rows: Array, first: int) -> Array:
  return _write(states, rows, jnp.int32(first))


@jax.jit(donate_argnums=0)
def _write(states: Array, rows: Array, first: Array) -> Array:
  return jax.lax.dynamic_update_slice_in_dim(states, rows, first, axis=0)


def _reader(mesh: Any, dtype: Any) -> Callable[[Array | None, Array], Array]:
  """Returns (states, rows) -> those states in the network's type; (None, states) casts the given states."""

  def read(states: Array | None, rows: Array) -> Array:
    return (rows if states is None else states[rows]).astype(dtype)

  return jax.jit(read, out_shardings=sharding.over_data(mesh))
