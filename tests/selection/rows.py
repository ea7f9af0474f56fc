"""Rows of weights that were scored on the same images, for tests of what is made of them."""

import numpy as np

TARGET = dict(
  target="photos",
  split="train",
  source="photos/train",
  num_images=200,
  num_classes=4,
  classes_without_images=[],
  classes_of_one_image=0,
  fingerprint="0" * 16,
  seed=0,
)


def score(value, error=None):
  return dict(value=value, standard_error=error, seconds=0.1, details={})


def row(name, *, hits=None, num=200, milliseconds=1.0, source_accuracy=None, **changes):
  """A weight that classifies the first `hits` images correctly; keywords in `scores` add to its scores."""
  terms = None if hits is None else [float(i < hits) for i in range(num)]
  scores = {}
  if terms is not None:
    scores["ridge"] = score(float(np.mean(terms)), float(np.std(terms) / np.sqrt(num)))
  scores |= changes.pop("scores", {})
  found = dict(
    weight=name,
    given=f"/w/{name}",
    path=f"/w/{name}",
    digest="1" * 16,
    origin={},
    architecture="resnet8",
    image_size=8,
    features=16,
    parameters=1000,
    multiply_accumulates=2000,
    head_classes=10,
    preprocessing=".data.normalize()",
    source_accuracy=source_accuracy,
    source_accuracy_from=None if source_accuracy is None else "a test",
    seen_images=None,
    images="2" * 16,
    num_images=num,
    num_classes=4,
    seconds=1.0,
    scoring_seconds=0.5,
    milliseconds_per_image=milliseconds,
    scores=scores,
    terms=terms,
    resampled=None,
  )
  return found | changes
