"""A working folder as a run leaves it, with made-up numbers: for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ARMS = ("cross_entropy", "label_smoothing", "weight_decay", "smoothed_hinge", "sam", "from_scratch")
SEEDS = (0, 1, 2)
TARGETS = ("digits", "photo_patches", "textures", "flowers", "pets", "aircraft")
PROTOCOLS = ("linear_probe", "fine_tune")
RATES = (0.05, 0.1, 0.2)


def write(
  workdir: Path,
  *,
  arms: Sequence[str] = ARMS,
  seeds: Sequence[int] = SEEDS,
  targets: Sequence[str] = TARGETS,
  protocols: Sequence[str] = PROTOCOLS,
  unfinished: Sequence[tuple[str, int]] = (),
  kind: str = "pretrain",
  source: str = ".data.nowhere",
  title: str = "Which loss makes the best weights?",
  notes: Sequence[str] = ("Pre-training data are drawn.",),
) -> Path:
  """Writes the folder; `kind` is the study: "pretrain", "transfer" or "flatness"."""
  config = _config(arms, seeds, targets, protocols, kind, source, title, notes)
  _dump(workdir / "config.json", config)
  env = {"command": ["jaxtl", "run", "x.py"], "started": "2026-11-22T08:23:11+00:00", "python": "3.11.7"}
  _dump(workdir / "env.json", env | {"versions": {"jaxtl": "0.1.0", "jax": "0.10.2"}, "devices": ["1 x cpu"]})
  for number, arm in enumerate(arms):
    for seed in seeds:
      folder = workdir / arm / str(seed)
      rng = np.random.default_rng([number, seed])
      scratch = arm == "from_scratch"
      if kind == "pretrain" and not scratch:
        _lines(folder / "metrics.jsonl", _metrics(rng, number))
      if (arm, seed) not in unfinished:
        rows = _rows(rng, number, scratch, targets, protocols, kind)
        _lines(folder / "rows.jsonl", [{"arm": arm, "seed": seed, **row} for row in rows])
  return workdir


def _config(
  arms: Sequence[str],
  seeds: Sequence[int],
  targets: Sequence[str],
  protocols: Sequence[str],
  kind: str,
  source: str,
  title: str,
  notes: Sequence[str],
) -> dict[str, Any]:
  def data(split: str) -> dict[str, Any]:
    return {
      "source": {"make": source, "split": split},
      "transforms": [{"fn": ".data.pad_crop", "size": 32, "padding": 2}, {"fn": ".data.normalize"}],
      "batch_size": 64,
    }

  cross_entropy = {"fn": ".losses.softmax_cross_entropy"}
  adam = {
    "make": ".optim.adam",
    "peak_rate": 1e-3,
    "schedule": {"make": ".optim.cosine", "warmup_epochs": 0.5},
  }
  recipes = {
    "linear_probe": {},
    "fine_tune": {"task": {"frozen_stats": True, "loss": cross_entropy}, "optimizer": adam, "epochs": 6.0},
  }
  transfer = {
    "targets": {name: {"train": data("train"), "test": data("test")} for name in targets},
    **{name: recipes[name] for name in protocols},
  }
  base: dict[str, Any] = {
    "pretrain": {
      "data": data("train"),
      "evaluation": {"test": data("test")},
      "epochs": 4.0,
      "transfer": transfer,
    },
    "transfer": {"start": "", "transfer": transfer},
    "flatness": {"start": "", "flatness": {"data": data("train")}},
  }[kind]
  different = {
    "label_smoothing": {"task": {"loss": {**cross_entropy, "label_smoothing": 0.1}}},
    "smoothed_hinge": {"task": {"loss": {"fn": ".losses.multiclass_smoothed_hinge", "margin": 7.0}}},
    "sam": {"gradient": {"make": ".optim.sam", "rho": 0.05}},
    "from_scratch": {"epochs": 0, "flatness": None},
  }
  return {
    "study": f".studies.{kind}.rows",
    "title": title,
    "notes": list(notes),
    "seeds": list(seeds),
    "base": base,
    "arms": {arm: different.get(arm, {}) for arm in arms},
  }


def _rows(
  rng: np.random.Generator,
  number: int,
  scratch: bool,
  targets: Sequence[str],
  protocols: Sequence[str],
  kind: str,
) -> list[dict[str, Any]]:
  curvature = {
    "lambda_max": float(300 / (1 + number) * np.exp(rng.normal(0, 0.15))),
    "residual": float(rng.uniform(1e-3, 1e-2)),
    "num_products": 31.0,
    "converged": 1.0,
    "num_examples": 512.0,
  }
  if kind == "flatness":
    about = {"loss": "cross_entropy", "differentiated": "softmax_cross_entropy", "checkpoint": "runs/x"}
    about |= {"images": "digits", "seed_of_images": 0, "compute_type": "float32", "precision": "float32"}
    about |= {"batch_norm": "stored statistics", "matmul_precision": "default", "weights": "0123456789abcdef"}
    counts = {"num_products": 31, "num_examples": 512}
    return [{"kind": "flatness", **curvature, **about, **counts, "converged": True}]
  rows: list[dict[str, Any]] = []
  if kind == "pretrain" and not scratch:
    rows += [
      {"kind": "tune", "peak_rate": rate, "epochs": 1.0, "accuracy": 0.4 + rate * (number % 2) - 0.1 * rate}
      for rate in RATES
    ]
  if kind == "pretrain":
    rows.append(
      {
        "kind": "pretrain",
        "steps": 0 if scratch else 4000,
        "peak_rate": 0.1,
        "train_loss": 1.2,
        "images_per_second": float("nan") if scratch else 990.0 / (1 + (number == 4)) + rng.normal(0, 5),
        "loss": {"fn": ".losses.softmax_cross_entropy"},
        "gradient": {"make": ".optim.plain"},
        "test/top1": 0.016 if scratch else float(0.7 + 0.01 * number + rng.normal(0, 0.004)),
        "test/cross_entropy": 1.1,
      }
      | ({} if scratch else curvature)
    )
  for place, target in enumerate(targets):
    for protocol in protocols:
      last = 0.68 + 0.03 * place + 0.008 * number - 0.25 * scratch - 0.1 * (protocol == "linear_probe")
      last = float(last + rng.normal(0, 0.006))
      row = {"kind": "transfer", "target": target, "protocol": protocol, "accuracy": last, "loss": 1.0}
      row |= {
        "num_train": 999,
        "num_test": 798,
        "num_classes": 3,
        "classes": ["a", "b", "c"],
        "seconds": 12.5,
      }
      rows.append(
        row | ({"best_accuracy": last + 0.004, "steps": 94} if protocol == "fine_tune" else {"l2": 1e-3})
      )
  return rows


def _metrics(rng: np.random.Generator, number: int) -> list[dict[str, float]]:
  records: list[dict[str, float]] = []
  for step in range(20, 4001, 20):
    left = np.exp(-step / 1200)
    scale = 5.0 if number == 3 else 1.0
    loss, accuracy = scale * (0.8 + 3.3 * left + rng.normal(0, 0.08)), 0.75 - 0.7 * left + rng.normal(0, 0.03)
    records.append({"step": step, "train/loss": float(loss), "train/accuracy": float(accuracy)})
    if step % 800 == 0:
      value = float(300 / (1 + number) * (1 + 2 * left) * np.exp(rng.normal(0, 0.1)))
      records.append({"step": step, "eval/test/top1": float(0.72 - 0.7 * left)})
      records.append({"step": step, "flatness/lambda_max": value})
  return records


def _dump(path: Path, value: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _lines(path: Path, values: Sequence[Any]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
