"""The result of a transfer of several weights to one data set, in a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.metrics import wilson_interval
from jaxtl.runner.rows import all_rows
from jaxtl.studies.transfer.results import protocol_title
from jaxtl.text_table import aligned_lines

_HEADER = ("weight", "protocol", "accuracy", "95 % interval", "loss", "seconds", "chosen")


def summary(workdir: Path) -> str:
  """Returns a table of every weight and protocol, and a sentence that recommends one."""
  rows = [row for row in all_rows(workdir) if row.get("kind") == "transfer"]
  groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
  for row in rows:
    groups.setdefault((row["arm"], row["protocol"]), []).append(row)
  if not groups:
    return "no result yet\n"
  lines = [_HEADER, *(_line(arm, protocol, found) for (arm, protocol), found in groups.items())]
  sentences = [*verdict(groups), *_below_probe(groups), *_places(workdir, rows)]
  return "\n".join([*aligned_lines(lines), "", *sentences]) + "\n"


def verdict(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
  """Recommends a weight and a protocol, and states how sure the difference is."""
  ranked = sorted(groups.items(), key=lambda item: (-_accuracy(item[1]), _mean(item[1], "loss")))
  (best, rows), *others = ranked
  low, _ = _interval(rows)
  sentence = f"Take {_name(best)}: it classifies {_accuracy(rows):.3f} of the test images correctly."
  near = [key for key, found in others if _interval(found)[1] > low]
  if near:
    names = ", ".join(_name(key) for key in near)
    sentence += f" Its interval overlaps with that of {names}: the difference may be chance."
  elif others:
    sentence += " Its interval is above all others."
  return [sentence]


def _below_probe(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
  """Returns a warning for every weight whose fine-tuning ends below its linear probe."""
  found = []
  for (arm, protocol), rows in groups.items():
    probe = groups.get((arm, "linear_probe"))
    if protocol == "fine_tune" and probe and _accuracy(rows) < _accuracy(probe):
      found.append(
        f"The fine-tuning of {arm} ends below its linear probe ({_accuracy(rows):.3f} after "
        f"{_accuracy(probe):.3f}): try lower rates (--rates), or take the probe."
      )
  return found


def _places(workdir: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
  """Returns a line for each fine-tuned weight with its folder, which `jaxtl predict` and others take."""
  places = [
    (row["arm"], workdir / row["arm"] / str(row["seed"]) / "transfer" / row["target"] / row["protocol"])
    for row in rows
    if row["protocol"] == "fine_tune"
  ]
  return [f"weights of {arm}: {place}" for arm, place in places if place.is_dir()]


def _line(arm: str, protocol: str, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
  low, high = _interval(rows)
  return (
    arm,
    protocol_title(protocol).lower(),
    f"{_accuracy(rows):.3f}",
    f"{low:.3f} to {high:.3f}",
    f"{_mean(rows, 'loss'):.3f}",
    f"{sum(row.get('seconds', 0.0) for row in rows):.0f}",
    _chosen(rows),
  )


def _chosen(rows: Sequence[dict[str, Any]]) -> str:
  if "l2" in rows[0]:
    return f"penalty {', '.join(sorted({format(row['l2'], 'g') for row in rows}))}"
  rates = sorted({row["peak_rate"] for row in rows if row.get("peak_rate") is not None})
  steps = [f"{row['selected_step']}/{row['steps']}" for row in rows if "selected_step" in row]
  parts = [f"rate {', '.join(format(rate, 'g') for rate in rates)}"] if rates else []
  return ", ".join([*parts, *([f"step {' '.join(steps)}"] if steps else [])])


def _accuracy(rows: Sequence[dict[str, Any]]) -> float:
  return _mean(rows, "accuracy")


def _interval(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
  """Returns the interval of the mean accuracy; seeds share their test images, so they count once."""
  return wilson_interval(_accuracy(rows), rows[0]["num_test"])


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
  values = [row[key] for row in rows if row.get(key) is not None]
  return float(np.mean(values)) if values else float("nan")


def _name(key: tuple[str, str]) -> str:
  arm, protocol = key
  return f"{arm} by {protocol_title(protocol).lower()}"
