"""Measures of a model over a data set, kept as sum and weight until the end, and of weights before training.

The scores that rank pre-trained weights are in `jaxtl.metrics.transferability`, which loads SciPy and is
imported on its own.
"""

from jaxtl.metrics.calibration import Bins, confidence_bins, expected_calibration_error, fit_temperature
from jaxtl.metrics.classification import in_top
from jaxtl.metrics.comparison import holm, mcnemar, seeds_and_images
from jaxtl.metrics.confusion import balanced_accuracy, confusion_matrix
from jaxtl.metrics.crossover import Crossover, CrossoverInterval, crossover, crossover_interval
from jaxtl.metrics.detection import Detections, Kept, detections, nms, soft_nms
from jaxtl.metrics.means import Mean, compute, merge
from jaxtl.metrics.moments import (
  Moments,
  add,
  batch_moments,
  fold_masks,
  moments_of,
  on_host,
  over_folds,
  random_projection,
)
from jaxtl.metrics.overfitting import LossCurve, loss_curve, patience_epoch, rise_interval
from jaxtl.metrics.proportions import wilson_interval
from jaxtl.metrics.ranking import (
  PointPrediction,
  RankingError,
  average_ranks,
  kendall_tau,
  mean_agreement,
  mean_of_others,
  normalized_regret,
  partial_spearman,
  pearson,
  predict_accuracies,
  regret,
  setup_stability,
  spearman,
  weighted_tau,
  within_groups,
)
from jaxtl.metrics.resampling import (
  Interval,
  checkpoint_interval,
  image_interval,
  joint_interval,
  order_p_value,
  paired_difference,
  random_orders,
  shared_ranks,
  target_interval,
)
from jaxtl.metrics.segmentation import (
  class_iou,
  class_means,
  class_overlaps,
  mean_iou,
  pixel_accuracy,
  pixel_confusion,
  segments_of,
)

__all__ = [
  "Bins",
  "Crossover",
  "CrossoverInterval",
  "Detections",
  "Interval",
  "Kept",
  "LossCurve",
  "Mean",
  "Moments",
  "PointPrediction",
  "RankingError",
  "add",
  "average_ranks",
  "balanced_accuracy",
  "batch_moments",
  "checkpoint_interval",
  "class_iou",
  "class_means",
  "class_overlaps",
  "compute",
  "confidence_bins",
  "confusion_matrix",
  "crossover",
  "crossover_interval",
  "detections",
  "expected_calibration_error",
  "fit_temperature",
  "fold_masks",
  "holm",
  "image_interval",
  "in_top",
  "joint_interval",
  "kendall_tau",
  "loss_curve",
  "mcnemar",
  "mean_agreement",
  "mean_iou",
  "mean_of_others",
  "merge",
  "moments_of",
  "nms",
  "normalized_regret",
  "on_host",
  "order_p_value",
  "over_folds",
  "paired_difference",
  "partial_spearman",
  "patience_epoch",
  "pearson",
  "pixel_accuracy",
  "pixel_confusion",
  "predict_accuracies",
  "random_orders",
  "random_projection",
  "regret",
  "rise_interval",
  "seeds_and_images",
  "segments_of",
  "setup_stability",
  "shared_ranks",
  "soft_nms",
  "spearman",
  "target_interval",
  "weighted_tau",
  "wilson_interval",
  "within_groups",
]
