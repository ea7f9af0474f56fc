"""A small fine-tuning of the small study, and what is checked of its weights."""

import dataclasses

import numpy as np

from jaxtl.config import parse
from jaxtl.studies.transfer import study as transfer
from jaxtl.studies.transfer.settings import Protocols
from jaxtl.train.experiment import make_model


def fine_tuning(study_config, **changes) -> Protocols:
  """The study's fine-tuning alone: 2 epochs of 96 images in batches of 16, 12 steps."""
  protocols = parse(study_config["base"]["transfer"], Protocols)
  tuned = dataclasses.replace(protocols.fine_tune, epochs=2.0, evaluate_every_epochs=1.0)
  return dataclasses.replace(protocols, linear_probe=None, fine_tune=dataclasses.replace(tuned, **changes))


def measure(protocols, start, folder, runtime):
  model = start.model_spec(trust=True)
  return list(transfer.measure(protocols, model, start, seed=0, workdir=folder, runtime=runtime))


def top1(weights, batches):
  """Of a checkpoint, by its model alone."""
  model = make_model(weights.model_spec(trust=True), num_classes=len(weights.classes))
  right, count = 0, 0
  for batch in batches:
    features, _ = model.apply(weights.params, weights.batch_stats, batch["image"])
    right += int(np.sum((np.argmax(features["logits"], axis=-1) == batch["label"]) & batch["mask"]))
    count += int(np.sum(batch["mask"]))
  return right / count
