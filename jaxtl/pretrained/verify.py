"""Comparison of a model with its original in another library, on the same weights and inputs."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from jaxtl.config import Spec
from jaxtl.errors import CheckpointError, InputError
from jaxtl.pretrained.importing import Imported

SCRIPT = Path(__file__).with_name("run_original.py")
IMAGES = 8


def verify(imported: Imported, *, library: str | None) -> float:
  """Returns the largest difference of the outputs on 8 inputs, divided by the original's largest output.

  Args:
    imported: the result of `import_weights`.
    library: the library of the layout.

  Raises:
    InputError: no library builds the original, or the library is not installed.
    CheckpointError: the original does not accept the weights.
  """
  spec = imported.weights.model_spec()
  inputs = some_inputs(imported.weights.config["image_shape"], spec)
  used = {key for entry in imported.entries for key in entry.keys}
  tensors = {key: value for key, value in imported.source.tensors.items() if key in used}
  num_classes = len(imported.weights.classes)
  theirs = run_original(library, spec, tensors, inputs, num_classes=num_classes)["logits"]
  given = next(iter(inputs.values()))
  features, _ = imported.model.apply(imported.weights.params, imported.weights.batch_stats, given)
  ours = np.asarray(features["logits" if "logits" in features else "pooled"])
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def some_inputs(shape: Sequence[int], spec: Spec) -> dict[str, np.ndarray]:
  """Returns {"images": normally distributed pixels} or {"tokens": texts that end with the largest id}."""
  rng = np.random.default_rng(0)
  if len(shape) == 3:
    return {"images": rng.standard_normal((IMAGES, *shape)).astype(np.float32)}
  end = keywords_of(spec)["vocabulary"] - 1
  tokens = rng.integers(1, end, (IMAGES, *shape)).astype(np.int32)
  for row, last in zip(tokens, rng.integers(2, shape[0], IMAGES)):
    row[last:] = 0
    row[last] = end
  return {"tokens": tokens}


def keywords_of(spec: Spec) -> dict[str, Any]:
  """Returns all keywords of a model, including defaults."""
  parameters = inspect.signature(spec.target).parameters
  defaults = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
  return {**defaults, **spec.keywords}


def run_original(
  library: str | None,
  spec: Spec,
  tensors: Mapping[str, np.ndarray],
  inputs: Mapping[str, np.ndarray],
  *,
  num_classes: int,
  python: str = sys.executable,
  script: Path = SCRIPT,
  **more: Any,
) -> dict[str, np.ndarray]:
  """Runs the original and returns its outputs; see `run_original.py` for the outputs and for `more`.

  Args:
    library: the library that builds the original.
    spec: spec of jaxtl's model.
    tensors: name in the library -> array.
    inputs: images or tokens.
    num_classes: K.
    python: an interpreter that has the library.
    script: the script that runs the job.
  """
  if library is None and script == SCRIPT:
    raise InputError("no library builds the original of this layout; leave --verify out")
  if library and python == sys.executable and importlib.util.find_spec(library) is None:
    raise InputError(f"--verify needs {library}: pip install '.[oracles]'")
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    save_file(
      {key: np.asarray(value, order="C") for key, value in tensors.items()}, folder / "weights.safetensors"
    )
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]
    job: dict[str, Any] = dict(
      library=library, model=spec.path.rpartition(".")[2], keywords=keywords_of(spec)
    )
    job |= dict(num_classes=num_classes, weights=str(folder / "weights.safetensors"), **more)
    job |= dict(inputs=str(folder / "inputs.npz"), out=str(folder / "out.npz"))
    (folder / "job.json").write_text(json.dumps(job))
    command = [python, "-P", str(script), str(folder / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
      reason = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
      raise CheckpointError(f"{library} cannot run the original: {reason}")
    with np.load(folder / "out.npz") as out:
      return {key: out[key] for key in out.files}
