"""The other side of `benchmarks/curvature.py`: Hessian products in torch, by reverse over reverse, on demand.

  PYTHON torch_curvature.py FOLDER

It imports nothing of jaxtl. FOLDER has `job.json` ({"model", "classes", "size", "batch", "threads"}),
`weights.npz` and `vector.npz` in the names of the library that the model comes from, and `images.npz`
(`image` [N, H, W, 3], `label` [N]). The first line written is a JSON list of the ways to take a product,
such as "double backward channels_last" and, where PyHessian is installed, "PyHessian eager". From then on
each line read is a request in JSON, answered by one line of JSON; `ANSWERS` has them.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_models import LAYOUTS, built

try:
  import pyhessian
except ImportError:
  pyhessian = None

Vector = Sequence[Tensor]
Product = Callable[[Vector], Vector]


class Side:
  """The models in both memory layouts, their batches, and the ways to take a product."""

  def __init__(self, folder: Path) -> None:
    self.folder = folder
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    self.clock = time.process_time if job["threads"] == 1 else time.perf_counter
    weights, images = (loaded(folder / name) for name in ("weights.npz", "images.npz"))
    label = images["label"].long()
    self.models: dict[str, nn.Module] = {}
    self.batches: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for layout, memory_format in LAYOUTS.items():
      model = built(job["model"], job["classes"], size=job["size"], twice=True).eval()
      model.load_state_dict({**model.state_dict(), **weights})
      self.models[layout] = model.to(memory_format=memory_format)
      image = images["image"].permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
      parts = zip(image.split(job["batch"]), label.split(job["batch"]), strict=True)
      self.batches[layout] = [(x.contiguous(memory_format=memory_format), y) for x, y in parts]
    self.names = [name for name, _ in self.models["eager"].named_parameters()]
    self.vector = [loaded(folder / "vector.npz")[name] for name in self.names]
    self.products = {
      f"{kind} {layout}": make(self.models[layout], self.batches[layout])
      for kind, make in KINDS.items()
      for layout in LAYOUTS
    }


def loaded(path: Path) -> dict[str, Tensor]:
  with np.load(path) as stored:
    return {key: torch.from_numpy(stored[key]) for key in stored.files}


def double_backward(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Product:
  """v -> H v of the mean cross-entropy: the gradient of <gradient, v>, batch by batch."""
  params = list(model.parameters())
  count = sum(len(y) for _, y in batches)

  def product(vector: Vector) -> Vector:
    total = [torch.zeros_like(p) for p in params]
    for x, y in batches:
      loss = functional.cross_entropy(model(x), y, reduction="sum") / count
      gradient = torch.autograd.grad(loss, params, create_graph=True)
      for whole, part in zip(total, torch.autograd.grad(gradient, params, list(vector)), strict=True):
        whole += part
    return total

  return product


def by_pyhessian(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Product:
  """The same by PyHessian, given the batches as its data loader."""
  whole = pyhessian.hessian(model, nn.CrossEntropyLoss(), dataloader=list(batches), cuda=False)
  return lambda vector: whole.dataloader_hv_product(list(vector))[1]


KINDS = {"double backward": double_backward, **({"PyHessian": by_pyhessian} if pyhessian else {})}


def timed_product(side: Side, way: str) -> dict[str, Any]:
  """Seconds of one product."""
  began = side.clock()
  side.products[way](side.vector)
  return {"seconds": side.clock() - began}


def timed_gradient(side: Side, way: str) -> dict[str, Any]:
  """Seconds of one gradient over all batches, in the layout of `way`."""
  layout = way.split()[-1]
  model = side.models[layout]
  params = list(model.parameters())
  began = side.clock()
  for x, y in side.batches[layout]:
    torch.autograd.grad(functional.cross_entropy(model(x), y), params)
  return {"seconds": side.clock() - began}


def stored_product(side: Side, way: str) -> dict[str, Any]:
  """Writes one product to `product.npz`, in the names of the weights."""
  found = side.products[way](side.vector)
  np.savez(side.folder / "product.npz", **{k: x.numpy() for k, x in zip(side.names, found, strict=True)})
  return {}


def power_iteration(side: Side, way: str, *, reference: float, error: float, limit: int) -> dict[str, Any]:
  """From the stored vector, until the Rayleigh quotient is within `error` of `reference`."""
  product = side.products[way]
  began = side.clock()
  vector = unit(side.vector)
  taken, value = 0, float("nan")
  while taken < limit:
    found = product(vector)
    taken += 1
    value = float(sum(torch.sum(a * b) for a, b in zip(vector, found, strict=True)))
    if abs(value - reference) <= error * abs(reference):
      break
    vector = unit(found)
  seconds = side.clock() - began
  return {"products": taken, "seconds": seconds, "value": value}


def unit(vector: Vector) -> Vector:
  norm = torch.sqrt(sum(torch.sum(x * x) for x in vector))
  return [x / norm for x in vector]


ANSWERS = {
  "product": timed_product,
  "gradient": timed_gradient,
  "store": stored_product,
  "power": power_iteration,
}


def main(folder: Path) -> None:
  """Answers until its input ends."""
  warnings.filterwarnings("ignore", message="Using backward")  # of a reference cycle, which each batch ends
  side = Side(folder)
  print(json.dumps([*side.products]), flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(ANSWERS[request.pop("do")](side, **request)), flush=True)


if __name__ == "__main__":
  main(Path(sys.argv[1]))
