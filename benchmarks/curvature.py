"""Hessian products and the largest eigenvalue beside PyHessian's algorithm in torch, in turns, in one run.

Same weights, images and threads. Ours runs in this process, torch in one of its own that answers call by
call (`torch_curvature.py`). torch's product is reverse over reverse, written here and, where PyHessian is
installed, PyHessian's own; each in the faster of torch's memory layouts, and the faster of both counts. Batch
normalisation has stored statistics on both sides. Seconds are those of the CPU with one thread, and elapsed
ones with more; a ratio is that of one round, here its median and quartiles. Exits with 1, naming it, where a
limit is passed.

  make bench-curvature CURVATURE="[--data-dir DIR] [--weights resnet20=FILE.npz] [--torch-python PYTHON]"

PYTHON is an interpreter that has torch and timm, and may have PyHessian; the default is this one. The
variables that make sets have glibc keep freed memory and ask for huge pages, on both sides: without them a
fifth of our time goes into the first touch of memory that XLA allocates anew for each call
(`docs/benchmarks.md`). The peaks of memory are measured without them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from curvature_problem import CASES, Problem

from jaxtl import tree
from jaxtl.curvature import hvp_over_batches, top_eigenpair, top_eigenpairs
from jaxtl.pretrained import read, write

TORCH, MEMORY = (Path(__file__).with_name(f"{name}.py") for name in ("torch_curvature", "curvature_memory"))
AGREE = 1e-3  # relative difference of both sides' products
ERROR = 0.01  # of the eigenvalue that is reached
GRADIENT = "Lanczos from the gradient, ours"
# What the peaks of memory are measured without.
ALLOCATOR = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
MOST = 300  # products of a power iteration
OVER_GRADIENT, OVER_POWER, GROWTH = 2.6, 0.5, 1.05  # limits
MANY = 64  # batches of the memory's measurement
PRODUCTS = (
  "| model, images | ours, s | torch, s | PyHessian, s | ours / faster of theirs (quartiles) |"
  " ours / our gradient (quartiles) | torch / its gradient |"
)
EIGENVALUES = "| model | method | products to 1 % | seconds | eigenvalue |"
MEMORIES = f"| model | 1 batch, MiB | {MANY} batches, MiB |"
Matvec = Callable[[Any], Any]


class Torch:
  """The other process; `ways` are its products, and `request` asks it for something."""

  def __init__(self, python: str, folder: Path) -> None:
    pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    self.process = subprocess.Popen([python, str(TORCH), str(folder)], **pipes)
    self.ways: list[str] = self._answer()

  def request(self, do: str, way: str, **more: Any) -> dict[str, Any]:
    print(json.dumps({"do": do, "way": way, **more}), file=self.process.stdin, flush=True)
    return self._answer()

  def close(self) -> None:
    self.process.communicate()

  def _answer(self) -> Any:
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit("torch's side ended; its message is above")
    return json.loads(line)


class Watched:
  """A product that keeps its vectors V and T = V^T H V.

  After m products the largest eigenvalue of T is that of Lanczos with m products.
  """

  def __init__(self, matvec: Matvec) -> None:
    self.matvec, self.vectors, self.entries = matvec, [], {}

  def __call__(self, vector: Any) -> Any:
    product = self.matvec(vector)
    self.vectors.append(vector)
    last = len(self.vectors) - 1
    for i, other in enumerate(self.vectors):
      self.entries[i, last] = self.entries[last, i] = float(tree.dot(other, product))
    return product

  def first_within(self, reference: float) -> int:
    """How many products take the eigenvalue to `ERROR` of the reference; all of them where none do."""
    size = len(self.vectors)
    whole = np.array([[self.entries[i, j] for j in range(size)] for i in range(size)])
    largest = (np.linalg.eigvalsh(whole[:m, :m])[-1] for m in range(1, size + 1))
    near = (m for m, value in enumerate(largest, 1) if abs(value - reference) <= ERROR * abs(reference))
    return next(near, size)


class Enough(Exception):
  """The power iteration is as near as was asked."""


class Comparison:
  """One model on both sides.

  Args:
    name: of the case.
    options: of the command line.
  """

  def __init__(self, name: str, options: argparse.Namespace) -> None:
    self.name, self.options = name, options
    self.clock = time.process_time if options.threads == 1 else time.perf_counter
    weights = dict(text.split("=", 1) for text in options.weights).get(name)
    self.problem = Problem(
      name,
      options.images,
      data_dir=options.data_dir,
      weights=None if weights is None else Path(weights),
      batch=options.batch,
    )
    self.key = jax.random.key(1)
    batches = self.problem.batches()
    self.matvec = hvp_over_batches(self.problem.loss_fn, self.problem.params, batches)
    self.vector = tree.random_like(self.key, self.problem.params)
    one = jax.jit(lambda params, batch: jax.grad(self.problem.loss_fn, has_aux=True)(params, batch)[0])

    def gradient() -> Any:
      total = tree.zeros_like(self.problem.params)
      for batch in batches:
        total = add(total, one(self.problem.params, batch))
      return total

    add = jax.jit(tree.add, donate_argnums=0)
    self.gradient = gradient
    self.title = f"{self.problem.case.title}, {options.images:,} at {self.problem.case.size} px"

  def write(self, folder: Path) -> None:
    """Weights, images and the vector for torch."""
    found, case = self.problem, self.problem.case
    zeros = jax.tree.map(np.zeros_like, jax.device_get(found.stats))
    for name, params, stats in (
      ("weights", found.params, jax.device_get(found.stats)),
      ("vector", self.vector, zeros),
    ):
      whole = {"params": jax.device_get(params), "batch_stats": stats}
      np.savez(folder / f"{name}.npz", **write(found.entries, whole))
    np.savez(folder / "images.npz", image=found.image, label=found.label)
    job = dict(model=self.name, classes=found.classes, size=case.size, batch=case.torch_batch)
    (folder / "job.json").write_text(json.dumps({**job, "threads": self.options.threads}))

  def check(self, torch: Torch, folder: Path) -> None:
    """Every one of torch's products is ours."""
    ours = self.matvec(self.vector)
    for way in torch.ways:
      torch.request("store", way)
      with np.load(folder / "product.npz") as stored:
        given = {"params": ours, "batch_stats": self.problem.stats}
        missing = write(self.problem.entries, jax.device_get(given))
        theirs, _ = read(self.problem.entries, {**missing, **stored}, self.problem.shapes)
      difference = float(tree.norm(tree.sub(ours, theirs["params"])) / tree.norm(ours))
      print(f"{self.name}: product of torch's {way} differs by {difference:.1e}", file=sys.stderr)
      if not difference <= AGREE:
        raise SystemExit(f"{self.name}: the products of both sides differ by {difference:.1e}")

  def faster_layouts(self, torch: Torch) -> dict[str, str]:
    """{"double backward", "PyHessian"} -> the way of that kind that one product is faster by."""
    seconds = {way: torch.request("product", way)["seconds"] for way in torch.ways}
    kinds = dict.fromkeys(way.rsplit(" ", 1)[0] for way in torch.ways)
    return {
      kind: min((way for way in seconds if way.startswith(kind)), key=seconds.__getitem__) for kind in kinds
    }

  def timed(self, call: Callable[[], Any]) -> float:
    began = self.clock()
    jax.block_until_ready(call())
    return self.clock() - began

  def rounds(self, torch: Torch, ways: dict[str, str]) -> list[dict[str, float]]:
    """Seconds of everything, round by round; the first warms up and is not among them."""
    found = []
    for _ in range(self.options.rounds + 1):
      took = {"ours": self.timed(lambda: self.matvec(self.vector)), "gradient": self.timed(self.gradient)}
      took |= {kind: torch.request("product", way)["seconds"] for kind, way in ways.items()}
      took["torch's gradient"] = torch.request("gradient", ways["double backward"])["seconds"]
      took["theirs"] = min(took[kind] for kind in ways)
      found.append(took)
    return found[1:]

  def eigenvalues(self, torch: Torch, way: str) -> dict[str, dict[str, float]]:
    """Products and seconds until each method has the largest eigenvalue to `ERROR`."""
    like = self.problem.params
    watched = Watched(self.matvec)
    reference = top_eigenpairs(watched, like, self.key, k=1, max_products=100, tolerance=3e-3)[0]
    if not reference.converged:
      raise SystemExit(f"{self.name}: no reference, Lanczos' residual is {reference.residual:.1e}")
    print(f"{self.name}: reference {reference.value:.6g}, residual {reference.residual:.1e}", file=sys.stderr)
    most = watched.first_within(reference.value)
    found = {"Lanczos, ours": self.lanczos(reference.value, most)}
    watched = Watched(self.matvec)
    top_eigenpairs(watched, like, self.key, max_products=most, tolerance=1e-9, start=self.gradient())
    found[GRADIENT] = self.lanczos(reference.value, watched.first_within(reference.value), self.gradient)
    found["power iteration, ours"] = self.power(reference.value)
    asked = dict(reference=reference.value, error=ERROR, limit=MOST)
    found[f"power iteration, {way}"] = torch.request("power", way, **asked)
    return found

  def lanczos(
    self, reference: float, products: int, start: Callable[[], Any] = lambda: None
  ) -> dict[str, float]:
    """A run that may take so many products, or as many more as it needs; its time includes its start."""
    while True:
      began = self.clock()
      pair = top_eigenpairs(
        self.matvec,
        self.problem.params,
        self.key,
        max_products=products,
        tolerance=1e-9,
        start=start(),
      )[0]
      seconds = self.clock() - began
      if abs(pair.value - reference) <= ERROR * abs(reference):
        return {"products": pair.num_products, "seconds": seconds, "value": pair.value}
      products += 1

  def power(self, reference: float) -> dict[str, float]:
    """`top_eigenpair` from the vector that torch begins with, interrupted where it is near enough."""
    taken, value = 0, 0.0

    def product(vector: Any) -> Any:
      nonlocal taken, value
      found = self.matvec(vector)
      taken, value = taken + 1, float(tree.dot(vector, found))
      if abs(value - reference) <= ERROR * abs(reference):
        raise Enough
      return found

    began = self.clock()
    with contextlib.suppress(Enough):
      top_eigenpair(product, self.problem.params, self.key, num_iters=MOST, tolerance=0, start=self.vector)
    return {"products": taken, "seconds": self.clock() - began, "value": value}


def memory(name: str, batch: int | None) -> tuple[float, float]:
  """Peak MiB of a process that takes one product over one batch, and over many."""
  settings: dict[str, Any] = dict(check=True, capture_output=True, text=True)
  # An allocator that keeps what is freed grows by its fragments, whatever the product does.
  settings["env"] = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
  command = [sys.executable, str(MEMORY), name]
  size = [] if batch is None else [str(batch)]
  one, many = (float(subprocess.run([*command, str(n), *size], **settings).stdout) for n in (1, MANY))
  return one, many


def spread(values: Iterator[float]) -> tuple[float, str]:
  """The median, and it with its quartiles."""
  low, middle, high = statistics.quantiles(values, n=4)
  return middle, f"{middle:.2f} ({low:.2f} to {high:.2f})"


def compare(name: str, options: argparse.Namespace, tables: dict[str, list[str]]) -> list[str]:
  """Adds the rows of one model to the tables, and returns the limits that it passes."""
  peaks = memory(name, options.batch)
  case = Comparison(name, options)
  with tempfile.TemporaryDirectory() as text:
    folder = Path(text)
    case.write(folder)
    torch = Torch(options.torch_python, folder)
    case.check(torch, folder)
    ways = case.faster_layouts(torch)
    rounds = case.rounds(torch, ways)
    middle = {kind: statistics.median(took[kind] for took in rounds) for kind in rounds[0]}
    beside, beside_text = spread(took["ours"] / took["theirs"] for took in rounds)
    over, over_text = spread(took["ours"] / took["gradient"] for took in rounds)
    print(f"{name}: {beside_text} of torch's time, {over_text} of our gradient's; {middle}", file=sys.stderr)
    found = case.eigenvalues(torch, ways[min(ways, key=middle.__getitem__)])
    torch.close()
  _, theirs_text = spread(took["double backward"] / took["torch's gradient"] for took in rounds)
  cells = [
    f"{middle[kind]:.2f}" if kind in middle else "" for kind in ("ours", "double backward", "PyHessian")
  ]
  tables[PRODUCTS].append(
    f"| {case.title} | {' | '.join(cells)} | {beside_text} | {over_text} | {theirs_text} |"
  )
  for method, got in found.items():
    products = f"{got['products']} and a gradient" if method == GRADIENT else got["products"]
    numbers = f"{products} | {got['seconds']:.1f} | {got['value']:.5g}"
    tables[EIGENVALUES].append(f"| {case.problem.case.title} | {method} | {numbers} |")
  tables[MEMORIES].append(
    f"| {case.problem.case.title}, {case.problem.case.batch} images | {peaks[0]:.0f} | {peaks[1]:.0f} |"
  )
  lanczos, power, theirs = found[GRADIENT], *list(found.values())[-2:]
  cost = lanczos["products"] + 1 / over
  limits = {
    f"a product takes {beside:.2f} of torch's time, at most 1": beside <= 1,
    f"a product takes {over:.2f} of our gradient's time, at most {OVER_GRADIENT}": over <= OVER_GRADIENT,
    f"{GRADIENT}, costs {cost:.1f} products, power iteration {power['products']}, at most half": (
      cost <= OVER_POWER * power["products"]
    ),
    f"1 % takes {lanczos['seconds']:.1f} s, and torch {theirs['seconds']:.1f} s": lanczos["seconds"]
    <= theirs["seconds"],
    f"memory grows from {peaks[0]:.0f} to {peaks[1]:.0f} MiB": peaks[1] <= GROWTH * peaks[0],
  }
  return [f"{name}: {text}" for text, kept in limits.items() if not kept]


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch")
  parser.add_argument("--models", nargs="+", default=[*CASES], choices=[*CASES], help="default: all")
  parser.add_argument("--images", type=int, default=1024, help="in total, in batches (default: 1024)")
  parser.add_argument("--batch", type=int, help="images of a batch on both sides (default: what suits each)")
  parser.add_argument("--rounds", type=int, default=5, help="timed rounds, at least 2 (default: 5)")
  parser.add_argument("--threads", type=int, default=1, help="threads and cores of each side (default: 1)")
  parser.add_argument(
    "--data-dir", type=Path, help="folder that has cifar10 as sheets; drawn images without it"
  )
  parser.add_argument(
    "--weights", nargs="+", default=[], metavar="MODEL=NPZ", help="in the layout of the model's original"
  )
  return parser.parse_args()


def main() -> int:
  """Compares the models one after the other, and prints the tables."""
  options = parse()
  # XLA takes as many threads as the process may use cores, and the child inherits them.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
  tables: dict[str, list[str]] = {PRODUCTS: [], EIGENVALUES: [], MEMORIES: []}
  passed = [text for name in options.models for text in compare(name, options, tables)]
  for head, rows in tables.items():
    print(head, "|---" * (head.count("|") - 1) + "|", *rows, "", sep="\n")
  for text in passed:
    print(f"over the limit: {text}")
  return 1 if passed else 0


if __name__ == "__main__":
  sys.exit(main())
