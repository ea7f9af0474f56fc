"""The model card of an exported weight, generated from its checkpoint and its run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data import Preprocessing
from jaxtl.host import sealed_json
from jaxtl.pretrained.library_names import name_of

_USE = {
  "transformers": """\
from transformers import AutoImageProcessor, {cls}

processor = AutoImageProcessor.from_pretrained("FOLDER")
model = {cls}.from_pretrained("FOLDER").eval()
output = model(**processor(images=image, return_tensors="pt"))""",
  "timm": """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image)[None])""",
  "jaxtl": """\
jaxtl import FOLDER --as {name} --layout jaxtl --out runs/import/{name}
jaxtl eval runs/import/{name} --data DATA""",
}


def model_card(weights: Weights, spec: Spec, *, library: str) -> str:
  """Returns the README.md of a Hugging Face style folder.

  Args:
    weights: a checkpoint.
    spec: spec of its model.
    library: the library whose format the folder has: "transformers", "timm" or "jaxtl".
  """
  name = name_of(spec)
  count = sum(np.size(x) for x in jax.tree.leaves(weights.params))
  kind = "image-classification" if weights.classes else "feature-extraction"
  parts = [
    f"---\nlibrary_name: {library}\npipeline_tag: {kind}\ntags:\n- jaxtl\n- {name}\n---",
    f"# {name}" + (f" for {len(weights.classes)} classes" if weights.classes else ""),
    f"{count:,} parameters. Written by `jaxtl export --format hugging_face`.",
    "## Where it comes from\n\n" + _origin(weights),
    "## Preprocessing\n\n" + _preprocessing(weights),
  ]
  measured = _measured(weights)
  if measured:
    parts.append("## Measured\n\n" + measured)
  if weights.classes:
    parts.append("## Classes\n\n" + _classes(weights.classes))
  parts.append(f"## Use\n\n```\n{_USE[library].format(name=name, cls=_class(name))}\n```")
  return "\n\n".join(parts) + "\n"


def _class(name: str) -> str:
  if name.startswith("clip"):
    return "CLIPTextModelWithProjection" if "text" in name else "CLIPVisionModelWithProjection"
  return "AutoModelForImageClassification"


def _origin(weights: Weights) -> str:
  source = weights.config.get("source")
  if source:
    return f"Read from `{source['file']}` (layout {source['layout']}, sha256 `{source['sha256']}`)."
  experiment = weights.config.get("experiment") or {}
  rows = [("step", weights.config.get("step")), ("seed", weights.config.get("seed"))]
  rows += [(key, experiment.get(key)) for key in ("epochs", "task", "optimizer", "gradient", "data", "start")]
  said = [(key, value) for key, value in rows if value is not None]
  return "Trained by jaxtl.\n\n" + _table(["", ""], [[key, _code(value)] for key, value in said])


def _code(value: Any) -> str:
  text = value if isinstance(value, str) else json.dumps(value)
  return f"`{text}`".replace("|", "\\|")


def _preprocessing(weights: Weights) -> str:
  transforms, shape = weights.config["transforms"], weights.config["image_shape"]
  if transforms is None:
    return "Not recorded." if len(shape) == 3 else f"Token ids, up to {shape[0]}."
  found = Preprocessing.of(transforms, size=shape[0])
  if found is None:
    return "\n".join(f"- {_code(transform)}" for transform in transforms)
  resize = (
    f"the shorter side to {found.resize_to}"
    if isinstance(found.resize_to, int)
    else f"to {found.size} x {found.size}"
  )
  crop = f", then the middle {found.size} x {found.size}" if isinstance(found.resize_to, int) else ""
  numbers = [", ".join(f"{x:.6g}" for x in values) for values in (found.mean, found.std)]
  first = "Resize" if found.upright else "Ignore the EXIF orientation; resize"
  return (
    f"{first} {resize} ({found.interpolation}, antialiased){crop}; scale to 0..1; subtract {numbers[0]}; "
    f"divide by {numbers[1]}."
  )


def _measured(weights: Weights) -> str:
  """Renders the last evaluations of the run that contains the checkpoint; returns "" if there are none."""
  folder = next((p for p in Path(weights.path).parents if (p / "metrics.jsonl").is_file()), None)
  folder = Path(weights.path) if (Path(weights.path) / "metrics.jsonl").is_file() else folder
  if folder is None:
    return ""
  last: dict[str, float] = {}
  with contextlib.suppress(ValueError):  # damaged metrics must not prevent the export of the weights
    for record in sealed_json.read_records(folder / "metrics.jsonl"):
      last |= {key: value for key, value in record.items() if key.startswith("eval/")}
  if not last:
    return ""
  return _table(
    ["measure", "value"], [[key.removeprefix("eval/"), f"{value:.4f}"] for key, value in last.items()]
  )


def _classes(classes: tuple[str, ...]) -> str:
  shown = "; ".join(classes[:20])
  return shown + (f"; and {len(classes) - 20} more, see `classes.json`" if len(classes) > 20 else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
