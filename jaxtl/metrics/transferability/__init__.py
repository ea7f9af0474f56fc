"""Transferability scores: pure functions that say, before any training, which weight suits a target.

Features are the pooled ones that the checkpoint's head sees, of training images, in evaluation mode. Every
score returns a `Score`; one that cannot be computed raises a `ScoreError` whose message is the reason. The
arithmetic is float64 on the host. Only `metrics.batch_moments` runs on devices.

  predictions [N, Z]      leep, nce
  statistics (moments)    h_score, lfc, logme, gbc, nc1, effective_rank, participation_ratio
  features [N, D]         ridge, knn, sfda, n_leep, transrate, parc, intrinsic_dimension, cross_validate
  gradients               gradient_signal

`statistics_of` makes statistics from features, and `class_statistics` from moments that were summed over
batches, devices and hosts.
"""

from jaxtl.metrics.transferability.controls import (
  LabelNull,
  color_features,
  permuted_label_null,
  pixel_features,
)
from jaxtl.metrics.transferability.covariance import h_score, ledoit_wolf, lfc
from jaxtl.metrics.transferability.discriminant import discriminant_posteriors, sfda
from jaxtl.metrics.transferability.evidence import LogEvidence, log_evidence, logme
from jaxtl.metrics.transferability.folds import cross_validate, stratified_folds, stratified_sample
from jaxtl.metrics.transferability.gaussian import gbc, gbc_diagonal, transrate
from jaxtl.metrics.transferability.geometry import effective_rank, nc1, participation_ratio
from jaxtl.metrics.transferability.gradient import gradient_signal
from jaxtl.metrics.transferability.mixture import Mixture, fit_mixture, n_leep
from jaxtl.metrics.transferability.nearest import Neighbours, intrinsic_dimension, knn, neighbours
from jaxtl.metrics.transferability.predictions import leep, nce
from jaxtl.metrics.transferability.ridge_regression import (
  RidgeFolds,
  fit_ridge_folds,
  ridge,
  ridge_head,
  ridge_hits,
)
from jaxtl.metrics.transferability.score import Score, ScoreError
from jaxtl.metrics.transferability.similarity import parc
from jaxtl.metrics.transferability.statistics import (
  ClassStatistics,
  class_statistics,
  principal_axes,
  projected,
  relabelled,
  statistics_of,
)

__all__ = [
  "ClassStatistics",
  "LabelNull",
  "LogEvidence",
  "Mixture",
  "Neighbours",
  "RidgeFolds",
  "Score",
  "ScoreError",
  "class_statistics",
  "color_features",
  "cross_validate",
  "discriminant_posteriors",
  "effective_rank",
  "fit_mixture",
  "fit_ridge_folds",
  "gbc",
  "gbc_diagonal",
  "gradient_signal",
  "h_score",
  "intrinsic_dimension",
  "knn",
  "ledoit_wolf",
  "leep",
  "lfc",
  "log_evidence",
  "logme",
  "n_leep",
  "nc1",
  "nce",
  "neighbours",
  "parc",
  "participation_ratio",
  "permuted_label_null",
  "pixel_features",
  "principal_axes",
  "projected",
  "relabelled",
  "ridge",
  "ridge_head",
  "ridge_hits",
  "sfda",
  "statistics_of",
  "stratified_folds",
  "stratified_sample",
  "transrate",
]
