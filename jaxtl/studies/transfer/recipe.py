"""The config of a fine-tuning of several weights on one data set, from a few choices.

The recipe, and why:

- A linear probe is fitted first, and is the head with which the fine-tuning begins: a random head would
  distort the backbone while it is learned (Kumar, Raghunathan, Jones, Ma, Liang, "Fine-Tuning can Distort
  Pretrained Features and Underperform Out-of-Distribution", 2022, arXiv 2202.10054).
- Normalisation uses the stored statistics: those of a few small batches would be noisy.
- Adam with decoupled decay, a warm-up of one epoch and half a cosine. The rate matters most, and differs by
  a factor of a hundred between architectures: three rates are tried.
- The rate and the step are those of the least cross-entropy on images held out from training. It ends when
  five evaluations in a row bring no improvement. The test images decide nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtl.errors import ConfigError

RATES = (1e-4, 3e-4, 1e-3)
EPOCHS, PATIENCE = 20.0, 5
AUGMENTATIONS = ("standard", "none", "flip", "rand_augment")
CROSS_ENTROPY = dict(fn=".losses.softmax_cross_entropy")


@dataclasses.dataclass(frozen=True)
class Choices:
  """The choices that may differ from the recipe.

  Attributes:
    probe_only: fits the linear probe alone.
    epochs, steps: length of a fine-tuning; at most one of them. None is `EPOCHS` epochs.
    rates: peak rates to choose from.
    augment: "standard" (a flip, and a random resized crop if the preprocessing crops), "none", "flip", or
      "rand_augment" in addition to the standard one.
    seeds: number of seeds.
    batch_size: images per batch.
    max_bad_records: number of unreadable images that are skipped in each split.
  """

  probe_only: bool = False
  epochs: float | None = None
  steps: int | None = None
  rates: tuple[float, ...] = RATES
  augment: str = "standard"
  seeds: int = 1
  batch_size: int = 32
  max_bad_records: int = 0

  def __post_init__(self) -> None:
    if self.augment not in AUGMENTATIONS:
      raise ConfigError(f"augment is {self.augment!r}; expected one of {', '.join(AUGMENTATIONS)}")


def config_of(
  name: str,
  sources: Mapping[str, Any],
  starts: Mapping[str, str],
  transforms: Mapping[str, Sequence[Mapping[str, Any]]],
  choices: Choices,
) -> dict[str, Any]:
  """Returns the config of the study.

  Args:
    name: of the data set.
    sources: `train`, `test` and, unless only the probe is fitted, `validation`, as specs.
    starts: arm -> checkpoint.
    transforms: arm -> preprocessing of its images; an arm without uses the checkpoint's own.
    choices: the differences from the recipe.
  """
  skipped = dict(max_bad_records=choices.max_bad_records) if choices.max_bad_records else {}
  parts: dict[str, Any] = {
    part: dict(source=source, batch_size=choices.batch_size, **skipped) for part, source in sources.items()
  }
  protocols = dict(targets={name: parts}, linear_probe={})
  if not choices.probe_only:
    protocols["fine_tune"] = _fine_tune(choices)
  return dict(
    study=".studies.transfer.rows",
    title=f"{len(starts)} weight{'s' * (len(starts) > 1)} on {name}",
    seeds=list(range(choices.seeds)),
    base=dict(transfer=protocols),
    arms={
      arm: dict(start=start, **_own_transforms(name, transforms.get(arm), choices.augment))
      for arm, start in starts.items()
    },
  )


def _fine_tune(choices: Choices) -> dict[str, Any]:
  epochs = None if choices.steps is not None else choices.epochs or EPOCHS
  length = dict(steps=choices.steps) if epochs is None else dict(epochs=epochs)
  # A run of at most one epoch, or of a few steps, has no room for a warm-up of one.
  warmup = dict(warmup_epochs=1.0) if epochs is not None and epochs > 1 else {}
  return dict(
    task=dict(make=".tasks.classification", loss=CROSS_ENTROPY),
    optimizer=dict(
      make=".optim.adamw",
      peak_rate=choices.rates[0],
      weight_decay=0.01,
      schedule=dict(make=".optim.cosine", **warmup),
    ),
    **length,
    head="probe",
    peak_rates=list(choices.rates),
    select=dict(evaluation="validation", measure="cross_entropy", patience=PATIENCE),
    evaluate_every_epochs=1.0,
  )


def _own_transforms(
  name: str, transforms: Sequence[Mapping[str, Any]] | None, augment: str
) -> dict[str, Any]:
  """Returns the transforms of an arm's images, unless they equal the study's defaults."""
  if transforms is None:
    return {}
  tested = dict(transforms=[dict(one) for one in transforms])
  trained = {} if augment == "standard" else dict(transforms=_augmented(transforms, augment))
  return dict(transfer=dict(targets={name: dict(train=trained, test=tested)}))


def _augmented(transforms: Sequence[Mapping[str, Any]], augment: str) -> list[dict[str, Any]]:
  *before, normalize = (dict(one) for one in transforms)
  flip = dict(fn=".data.flip_left_right")
  if augment == "none":
    return [*before, normalize]
  if augment == "flip":
    return [*before, flip, normalize]
  crop = next((one for one in before if one["fn"] == ".data.center_crop"), None)
  if crop is not None:  # as the standard augmentation does
    sizes = [one["interpolation"] for one in before if "interpolation" in one]
    before = [
      dict(
        fn=".data.random_resized_crop", size=crop["size"], **({"interpolation": sizes[0]} if sizes else {})
      )
    ]
  return [*before, flip, dict(fn=".data.rand_augment"), normalize]
