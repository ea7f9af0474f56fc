"""The table that an import prints: where each tensor went, and what was left over."""

from __future__ import annotations

from jaxtl.pretrained.importing import Imported


def table(imported: Imported) -> str:
  """One line for each leaf of ours, then what has no counterpart on either side."""
  rows = [("ours", "shape", "rule", "theirs")]
  for entry in imported.entries:
    theirs = "drawn anew" if entry.path in imported.fresh else " ".join(entry.keys) or "-"
    rows.append((entry.path, "x".join(map(str, entry.shape)) or "()", entry.rule.text, theirs))
  widths = [max(len(row[column]) for row in rows) for column in range(3)]
  lines = [
    "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows
  ]
  used = {key for entry in imported.entries for key in entry.keys}
  lines.append("")
  lines.append(f"{len(imported.entries) - len(imported.fresh)} arrays of {len(used)} tensors")
  if imported.fresh:
    lines.append(f"not in the file, drawn anew: {', '.join(imported.fresh)}")
  if imported.left_over:
    lines.append(f"in the file, left out: {', '.join(imported.left_over)}")
  if imported.other:
    lines.append(f"in the file, of another model: {imported.other} tensors")
  about = imported.weights.config
  shape = " x ".join(map(str, about["image_shape"]))
  lines.append(f"{len(about['classes']) or 'no'} classes, inputs of {shape}, {about['model']}")
  return "\n".join(lines) + "\n"
