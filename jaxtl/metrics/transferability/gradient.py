"""The gradient signal: does a weight need fine-tuning, or is a new head enough?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.score import Score, ScoreError
from jaxtl.types import Params


def gradient_signal(params: Params, grads: Params, *, blocks: Sequence[str]) -> Score:
  """Computes the mean over blocks of |gradient| / |parameters|.

  The relative gradient norm of Lee, Chen, Tajwar, Kumar, Yao, Liang, Finn, "Surgical Fine-Tuning Improves
  Adaptation to Distribution Shifts", 2023, arXiv 2210.11466, applied to a backbone below a fitted head
  (`ridge_head`, or a probe). It is compared with measured fine-tuning accuracy minus probe accuracy, and not
  with accuracy.

  Args:
    params: of the backbone, by block.
    grads: of the mean cross-entropy, the same tree.
    blocks: the blocks to use, without the head.

  Returns:
    A value in [0, inf). Details: "blocks", block -> ratio; blocks without parameters are left out.

  Raises:
    ConfigError: a block is missing.
    ScoreError: no block has parameters, or a ratio is not finite.
  """
  missing = [name for name in blocks if name not in params or name not in grads]
  if missing:
    raise ConfigError(f"the parameters or gradients have no block {missing[0]!r}; expected {sorted(params)}")
  sizes = {name: float(tree.norm(params[name])) for name in blocks}
  ratios = {
    name: float(tree.norm(grads[name])) / size for name, size in sizes.items() if size > 0 or math.isnan(size)
  }
  if not ratios:
    raise ScoreError("no block has parameters that are not 0")
  if not all(math.isfinite(ratio) for ratio in ratios.values()):
    raise ScoreError("a gradient or a parameter is NaN or infinite")
  return Score(float(np.mean(list(ratios.values()))), details={"blocks": ratios})
