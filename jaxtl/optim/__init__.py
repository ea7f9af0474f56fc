"""Optimisers, schedules and gradient rules."""

from jaxtl.optim.fine_tuning import auto_rgn, l2_sp
from jaxtl.optim.gradients import accumulate, asam, gsam, init_memory, looksam, passes, plain, sam
from jaxtl.optim.linear_probe import PenaltyChoice, Probe, choose_probe, fit_probe
from jaxtl.optim.post_training import cut_block, only, pof, pol, trained_paths, weak_rows
from jaxtl.optim.schedules import constant, cosine, linear, multi_step, steps_of
from jaxtl.optim.transforms import (
  adam,
  adamw,
  averaged,
  chain,
  current_rate,
  ema,
  layerwise_decay,
  sgd,
  where,
)

__all__ = [
  "PenaltyChoice",
  "Probe",
  "accumulate",
  "adam",
  "adamw",
  "asam",
  "auto_rgn",
  "averaged",
  "chain",
  "choose_probe",
  "constant",
  "cosine",
  "current_rate",
  "cut_block",
  "ema",
  "fit_probe",
  "gsam",
  "init_memory",
  "l2_sp",
  "layerwise_decay",
  "linear",
  "looksam",
  "multi_step",
  "only",
  "passes",
  "plain",
  "pof",
  "pol",
  "sam",
  "sgd",
  "steps_of",
  "trained_paths",
  "weak_rows",
  "where",
]
