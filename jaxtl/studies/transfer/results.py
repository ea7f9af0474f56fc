"""The rows of a transfer: protocols, targets, and means over targets."""

from __future__ import annotations

from jaxtl.report.results import Results
from jaxtl.report.table import mean_over

_TITLES = {
  "fine_tune": "Fine-tuning",
  "interpolated": "Between checkpoint and fine-tuning",
  "linear_probe": "Linear probe",
}


def protocol_title(protocol: str) -> str:
  """Returns the title of a protocol."""
  shots = _shots(protocol)
  if shots:
    return f"Linear probe on {shots} image{'s' * (shots > 1)} per class"
  return _TITLES.get(protocol, protocol)


def _shots(protocol: str) -> int:
  """Returns the images per class of a protocol such as `5_shot`; 0 for all others."""
  number, _, rest = protocol.partition("_")
  return int(number) if rest == "shot" and number.isdecimal() else 0


def protocols(results: Results) -> tuple[str, ...]:
  """Returns the protocols that were measured: fine-tuning, the probe, few-shot probes by their shots."""
  found = dict.fromkeys(row["protocol"] for row in results.rows if row.get("kind") == "transfer")
  return tuple(sorted(found, key=lambda name: (name != "fine_tune", _shots(name), name)))


def targets(results: Results) -> tuple[str, ...]:
  """Returns the data sets to which weights were transferred."""
  return tuple(dict.fromkeys(row["target"] for row in results.rows if row.get("kind") == "transfer"))


def accuracies(results: Results, protocol: str, target: str) -> dict[str, dict[int, float]]:
  """Returns arm -> seed -> accuracy on a target."""
  return results.values("accuracy", kind="transfer", protocol=protocol, target=target)


def mean_accuracies(results: Results, protocol: str) -> dict[str, dict[int, float]]:
  """Returns arm -> seed -> mean accuracy over the targets, where every target was measured."""
  return mean_over([accuracies(results, protocol, name) for name in targets(results)])


def is_from_scratch(results: Results, arm: str) -> bool:
  """Returns whether an arm transfers untrained weights, as the control."""
  merged = results.arm_config(arm)
  return 0 in (merged.get("epochs"), merged.get("steps")) and not merged.get("start")
