"""Export of checkpoints to other formats, each readable without jaxtl."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from jaxtl import models, tree
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data import Preprocessing
from jaxtl.errors import InputError, cannot_write
from jaxtl.pretrained import library_names, model_card
from jaxtl.pretrained.layouts.layout import Layout, write
from jaxtl.train.step import shapes_of


def export(
  weights: Weights,
  out: Path,
  *,
  format: str,
  trust: bool = False,
  section: str = "",
  files: Mapping[str, str] | None = None,
) -> None:
  """Writes a weight with its class list and preprocessing: either the complete folder, or nothing.

  Args:
    weights: a checkpoint.
    out: the folder to create.
    format: one of `FORMATS`.
    trust: as for `Weights.model_spec`.
    section: Markdown that the model card ends with.
    files: further files by name.

  Raises:
    InputError: `out` exists, the format does not have the model or computes something else with it, or it has
      no model card for the section.
  """
  weights = _without_lora(weights)
  with whole_folder(out) as folder:
    FORMATS[format](weights, folder, trust)
    readme = folder / "README.md"
    if section:
      if not readme.exists():
        raise InputError(f"the format {format} has no model card; expected hugging_face")
      readme.write_text(readme.read_text(encoding="utf-8") + f"\n{section}", encoding="utf-8")
    for name, text in (files or {}).items():
      (folder / name).write_text(text, encoding="utf-8")
    (folder / "classes.json").write_text(json.dumps(list(weights.classes), ensure_ascii=False) + "\n")


def _without_lora(weights: Weights) -> Weights:
  """Returns the weights of the model inside `.models.lora`, with the change added to its kernels."""
  # As written: some formats need no model, and then its functions need not be trusted or even installed.
  spec = weights.config.get("model") or {}
  if spec.get("make") not in (".models.lora", "jaxtl.models.lora"):
    return weights
  alpha = spec.get("alpha", inspect.signature(models.lora).parameters["alpha"].default)
  params = models.merge_factors(weights.params, alpha=alpha)
  return dataclasses.replace(weights, params=params, config={**weights.config, "model": spec["model"]})


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
  """Yields a folder to write to, which is renamed to `out` on success and removed on failure.

  Raises:
    InputError: `out` exists, or cannot be made.
    StorageError: the disk is full or fails.
  """
  if out.exists():
    raise InputError(f"{out} exists already; give a folder that does not")
  partial = out.with_name(f".{out.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  try:
    partial.mkdir(parents=True)
  except OSError as error:
    raise cannot_write(out, error) from error
  try:
    yield partial
    partial.rename(out)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _flat(weights: Weights) -> dict[str, np.ndarray]:
  """Returns path -> array under jaxtl's names."""
  both = {"params": weights.params, "batch_stats": weights.batch_stats}
  return dict(zip(tree.paths(both), map(np.asarray, jax.tree.leaves(both)), strict=True))


def _write_config(weights: Weights, folder: Path) -> None:
  (folder / "config.json").write_text(json.dumps(weights.config, indent=1) + "\n")


def _orbax(weights: Weights, folder: Path, trust: bool) -> None:
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as writer:
    writer.save(folder.absolute() / "model", {"params": weights.params, "batch_stats": weights.batch_stats})
  _write_config(weights, folder)


def _safetensors(weights: Weights, folder: Path, trust: bool) -> None:
  _save(_flat(weights), folder)
  _write_config(weights, folder)


def _npz(weights: Weights, folder: Path, trust: bool) -> None:
  arrays: dict[str, Any] = _flat(weights)
  np.savez(folder / "model.npz", **arrays)
  _write_config(weights, folder)


def _save(tensors: dict[str, np.ndarray], folder: Path, **metadata: str) -> None:
  """Writes the tensors in the order of their names, so that equal weights give equal bytes."""
  ordered = {key: np.asarray(tensors[key], order="C") for key in sorted(tensors)}
  (folder / "model.safetensors").write_bytes(save(ordered, metadata or None))


def _torchvision(weights: Weights, folder: Path, trust: bool) -> None:
  from jaxtl.pretrained import LAYOUTS

  spec = weights.model_spec(trust=trust)
  _require(LAYOUTS["torchvision"], spec)
  library_names.check_torchvision(spec)
  _save(in_layout(weights, spec, LAYOUTS["torchvision"]), folder, format="pt")
  _write_config(weights, folder)


def _timm(weights: Weights, folder: Path, trust: bool) -> None:
  from jaxtl.pretrained import LAYOUTS

  spec = weights.model_spec(trust=trust)
  _require(LAYOUTS["timm"], spec)
  config = library_names.timm_config(spec, weights.classes, preprocessing_of(weights))
  _save(in_layout(weights, spec, LAYOUTS["timm"]), folder, format="pt")
  (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _hugging_face(weights: Weights, folder: Path, trust: bool) -> None:
  """Writes transformers' format if it has the model, else timm's, else jaxtl's; adds a model card."""
  from jaxtl.pretrained import LAYOUTS

  spec = weights.model_spec(trust=trust)
  name = library_names.name_of(spec)
  if LAYOUTS["hugging_face"].has(name) and library_names.transformers_can(spec, weights.classes):
    library = "transformers"
    _save(in_layout(weights, spec, LAYOUTS["hugging_face"]), folder, format="pt")
    config = library_names.transformers_config(spec, weights.classes)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if len(weights.config["image_shape"]) == 3:  # a text tower has no images to prepare
      processor = library_names.preprocessor_config(preprocessing_of(weights), name)
      (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
  elif LAYOUTS["timm"].has(name) and library_names.timm_can(spec):
    library = "timm"
    _timm(weights, folder, trust)
  else:
    library = "jaxtl"
    _safetensors(weights, folder, trust)
  (folder / "README.md").write_text(model_card.model_card(weights, spec, library=library), encoding="utf-8")


def _stablehlo(weights: Weights, folder: Path, trust: bool) -> None:
  from jaxtl.pretrained import stablehlo

  spec, preprocessing = weights.model_spec(trust=trust), preprocessing_of(weights)
  model = spec.realize(num_classes=len(weights.classes))
  (folder / "model.stablehlo").write_bytes(stablehlo.serialized(model, weights, preprocessing))
  text = json.dumps(stablehlo.description(preprocessing), indent=1)
  (folder / "preprocessing.json").write_text(text + "\n")


def _onnx(weights: Weights, folder: Path, trust: bool) -> None:
  from jaxtl.pretrained import onnx_graph, stablehlo

  spec = weights.model_spec(trust=trust)
  if len(weights.config["image_shape"]) != 3:
    raise InputError(f"{library_names.name_of(spec)} takes no images; export it as safetensors")
  if spec.keywords.get("dtype", "float32") != "float32":
    # Runtimes on the CPU have no bfloat16 convolutions; the parameters are float32 in any case.
    spec = dataclasses.replace(spec, keywords={**spec.keywords, "dtype": "float32"})
  preprocessing = preprocessing_of(weights)
  model = spec.realize(num_classes=len(weights.classes))
  (folder / "model.onnx").write_bytes(onnx_graph.serialized(model, weights, preprocessing))
  text = json.dumps(stablehlo.description(preprocessing), indent=1)
  (folder / "preprocessing.json").write_text(text + "\n")


def _require(layout: Layout, spec: Spec) -> None:
  name = library_names.name_of(spec)
  if not layout.has(name):
    raise InputError(f"{layout.name} has no {name}; it has {layout.covers}")


def in_layout(weights: Weights, spec: Spec, layout: Layout) -> dict[str, np.ndarray]:
  """Returns the weight's tensors in a layout, with torch's batch counters set to 0."""
  model = spec.realize(num_classes=len(weights.classes))
  shapes = shapes_of(model, weights.config["image_shape"])
  both = {"params": weights.params, "batch_stats": weights.batch_stats}
  tensors = write(layout.entries(model, shapes), both)
  means = [key for key in tensors if key.endswith("running_mean")]
  counters = {key.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64) for key in means}
  return tensors | counters


def preprocessing_of(weights: Weights) -> Preprocessing:
  """Returns the preprocessing that the weight expects.

  Raises:
    InputError: the weight does not specify one, or it is more than a resize, a crop and a normalisation.
  """
  transforms = weights.config["transforms"]
  found = None
  if transforms is not None:
    found = Preprocessing.of(transforms, size=weights.config["image_shape"][0])
  if found is None:
    raise InputError(
      f"{weights.path} does not describe its preprocessing as a resize, a crop and a normalisation, "
      "which this format needs; export it as safetensors"
    )
  return found


FORMATS: dict[str, Callable[[Weights, Path, bool], None]] = {
  "orbax": _orbax,
  "safetensors": _safetensors,
  "npz": _npz,
  "torchvision": _torchvision,
  "timm": _timm,
  "hugging_face": _hugging_face,
  "stablehlo": _stablehlo,
  "onnx": _onnx,
}
