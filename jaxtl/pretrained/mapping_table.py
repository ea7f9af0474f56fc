"""The table printed by an import: the mapping of tensors, unmatched ones, and the preprocessing."""

from __future__ import annotations

from jaxtl.data import Preprocessing
from jaxtl.pretrained.importing import Imported
from jaxtl.pretrained.prefixes import in_line
from jaxtl.text_table import aligned_lines

_OPTIONS = dict(crop_fraction="crop", interpolation="interpolation", mean="mean", std="std")


def table(imported: Imported) -> str:
  """Renders one line per leaf, the leaves and tensors without a counterpart, and the preprocessing."""
  rows = [("ours", "shape", "rule", "theirs")]
  for entry in imported.entries:
    theirs = "initialised" if entry.path in imported.fresh else " ".join(entry.keys) or "-"
    rows.append((entry.path, "x".join(map(str, entry.shape)) or "()", entry.rule.text, theirs))
  lines = aligned_lines(rows)
  used = {key for entry in imported.entries for key in entry.keys}
  lines.append("")
  lines.append(f"{len(imported.entries) - len(imported.fresh)} arrays of {len(used)} tensors")
  if imported.fresh:
    lines.append(f"not in the file, initialised: {', '.join(imported.fresh)}")
  if imported.left_over:
    lines.append(f"in the file, left out: {', '.join(map(in_line, imported.left_over))}")
  if imported.other:
    lines.append(f"in the file, of another model: {imported.other} tensors")
  about = imported.weights.config
  shape = " x ".join(map(str, about["image_shape"]))
  lines.append(f"{len(about['classes']) or 'no'} classes, inputs of {shape}, {about['model']}")
  lines += imported.notes
  if imported.preprocessing is not None:
    lines.append(_images(imported.preprocessing))
  if imported.assumed:
    names = ", ".join(_OPTIONS[key] for key in imported.assumed)
    options = ", ".join(f"--{key.replace('_', '-')}" for key in imported.assumed)
    lines.append(f"assumed, because no config file specifies it: {names}; other values: {options}")
  return "\n".join(lines) + "\n"


def _images(prepared: Preprocessing) -> str:
  mean, std = (" ".join(f"{x:.6g}" for x in values) for values in (prepared.mean, prepared.std))
  crop = "none" if prepared.crop_fraction is None else f"{prepared.crop_fraction:.4g}"
  return f"crop {crop}, interpolation {prepared.interpolation}, mean {mean}, std {std}"
