"""The base network, and the methods that continue training from it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import losses, metrics
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.host.remember import remember
from jaxtl.measure import layer_diagnosis as diagnosis_lib
from jaxtl.measure.losses import training_loss
from jaxtl.studies.layers import plan as layers_plans
from jaxtl.studies.layers import stages
from jaxtl.studies.layers.settings import Layers, Method
from jaxtl.studies.layers.stages import PostTrainingStage
from jaxtl.train import device_memory, experiment, prefix_cache, sharding
from jaxtl.train.evaluate import collect_features, make_logits
from jaxtl.train.experiment import make_model
from jaxtl.train.image_size import at_size, fitted
from jaxtl.train.inputs import Data
from jaxtl.train.post_training import PostTraining
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.runtime import Runtime
from jaxtl.types import Row

Chosen = tuple[str | None, str | None]
# Row keys with the prefix `last_`, for the weights after the last step -> their keys in a report.
_LAST = {"loss": "test_loss", "error": "test_error", "scaled_loss": "scaled_loss"}


@dataclasses.dataclass(frozen=True, eq=False)
class Methods:
  """A base network, and its diagnosis and post-training."""

  study: Layers
  base: Weights
  runtime: Runtime
  seed: int
  workdir: Path

  def diagnosed(self) -> list[Row]:
    """Returns the rows of the base network's diagnosis, computed or read back."""
    compute = functools.partial(self.diagnose, self.base)
    found: list[Row] = remember(self.workdir / "diagnosis.json", compute, note=self.runtime.progress.note)[
      "rows"
    ]
    return found

  def diagnose(self, weights: Weights) -> dict[str, list[Row]]:
    """Diagnoses weights with the loss that the methods train with, and returns the rows."""
    assert self.study.diagnosis is not None
    size = self.runtime.image_shape(self.study.diagnosis.data)[0]
    model, params = fitted(self.base.model_spec(trust=self.runtime.trust), weights, size)
    loss = training_loss(self.study.task.realize(num_classes=len(self.base.classes)))
    stats = weights.batch_stats
    return {"rows": diagnosis_lib.diagnose(self.study.diagnosis, model, params, stats, loss, self.runtime)}

  def go_on(self, name: str) -> Row:
    """Trains by a method, and reports the chosen checkpoint, and the last one in `last_*`."""
    method = self.study.methods[name]
    parts, ended = self._trained(name)
    final, num_examples = parts[-1], len(self.runtime.open(self.study.data))
    step, kept = self._kept(parts)
    reported = self.report(name, kept)
    last = reported if step == final.end else self.report(name, final.trained.weights)
    worked = dict(zip(("perturb", "update"), final.blocks)) if method.diagnosed else _written(method.gradient)
    about = stages.told(parts, ended, num_examples=num_examples)
    caches = dict.fromkeys(part.trained.cache.where if part.trained.cache else "none" for part in parts)
    return reported | {
      **worked,
      **(about if method.rediagnose_every is not None else {}),
      # If the chosen step is the base's, the effect of a method shows only here.
      **{f"last_{key}": last[of] for key, of in _LAST.items()},
      "epochs": sum(part["epochs"] for part in about["parts"]) if ended else self.study.epochs,
      "steps": final.end,
      "kept_step": step,
      "seconds_per_epoch": _finite(stages.seconds_per_epoch(parts, num_examples=num_examples)),
      "step_bytes": max(self._bytes(part.settings, *part.blocks, part.trained.cache) for part in parts),
      "cache": ", ".join(caches),
      "reject_rate": _finite(stages.rejects(parts)),
    }

  def report(self, name: str, weights: Weights) -> Row:
    """Reports test loss, error and calibration, before and after temperature scaling.

    The temperature is fitted on the validation images.
    """
    held, seen = (self._logits(weights, data) for data in (self.study.validation, self.study.test))
    temperature = metrics.fit_temperature(*held)
    plain, scaled = (_scores(seen[0] / t, seen[1]) for t in (1.0, temperature))
    return {
      "kind": "post_training",
      "method": name,
      **{f"test_{key}": value for key, value in plain.items()},
      "validation_loss": _scores(*held)["loss"],
      "temperature": temperature,
      "scaled_loss": scaled["loss"],
      "scaled_ece": scaled["ece"],
      "num_test": len(seen[1]),
      "num_validation": len(held[1]),
    }

  def settings(self, method: Method) -> PostTraining:
    """Returns the post-training of a method.

    It has a checkpoint and a validation loss after every epoch.
    """
    per_epoch = max(len(self.runtime.open(self.study.data)) // self.study.data.batch_size, 1)
    return PostTraining(
      task=self.study.task,
      data=self.study.data,
      optimizer=self.study.optimizer,
      epochs=self.study.epochs,
      gradient=method.gradient,
      cache=method.cache,
      evaluation={"validation": self.study.validation},
      evaluate_every=per_epoch,
      checkpoint_every=per_epoch,
      keep=int(self.study.epochs) + 2,
      log_every=max(per_epoch // 4, 1),
    )

  def missing(self, name: str, chosen: Chosen) -> str:
    """States why a method cannot run: the diagnosis found no layers for it; "" if it can."""
    lacking = stages.lacking(chosen) if self.study.methods[name].diagnosed else ""
    return lacking and f"{lacking}; name the method's layers instead"

  def _trained(self, name: str) -> tuple[list[PostTrainingStage], str]:
    """Returns the parts of a method, and why they ended early; one part if it diagnoses only once."""
    method, progress = self.study.methods[name], self.runtime.progress
    num_examples = len(self.runtime.open(self.study.data))
    plans = stages.split(self.settings(method), method.rediagnose_every, num_examples=num_examples)

    def note(text: str) -> None:
      assert self.study.diagnosis is not None
      progress.note(f"{name}: {text}")
      progress.skip(layers_plans.diagnosis_work(self.study.diagnosis))

    parts, ended = stages.train(
      plans,
      self.base,
      stages.blocks_of(self.diagnosed()) if method.diagnosed else (None, None),
      seed=self.seed,
      runtime=self.runtime,
      folder=self.workdir / "post_training" / name,
      diagnose=self.diagnose,
      note=note,
    )
    left = sum(plan.steps or 0 for plan in plans[len(parts) :])
    progress.skip(left * self.study.data.batch_size * experiment.work_of(method.gradient))
    return parts, ended

  def _kept(self, parts: list[PostTrainingStage]) -> tuple[int, Weights]:
    """Returns the step with the lowest validation loss of all parts, and its weights; step 0 is the base."""
    if not self.study.best:
      return parts[-1].end, parts[-1].trained.weights
    losses_at = {0: _scores(*self._logits(self.base, self.study.validation))["loss"]}
    losses_at |= {step: loss for part in parts for step, loss in part.losses().items()}
    step = min(sorted(losses_at), key=losses_at.__getitem__)
    if step == 0:
      return 0, self.base
    return step, next(part for part in parts if step <= part.end).load(step)

  def _logits(self, weights: Weights, data: Data) -> tuple[np.ndarray, np.ndarray]:
    size = self.runtime.image_shape(data)[0]
    spec = self.base.model_spec(trust=self.runtime.trust)
    _, fitting = fitted(spec, weights, size)
    logits = make_logits(make_model(at_size(spec, size), num_classes=len(weights.classes)))
    mesh = self.runtime.mesh
    params, stats = (sharding.put_replicated(x, mesh) for x in (fitting, weights.batch_stats))
    return collect_features(logits, params, stats, self.runtime.eval_batches(data), mesh=mesh)

  def _bytes(self, settings: PostTraining, perturb: Any, update: Any, cache: PrefixCache | None) -> int:
    """Returns the device memory of a compiled step, including a cache that is on the device."""
    data, mesh = self.study.data, self.runtime.mesh
    shape = self.runtime.image_shape(data)
    spec = self.base.model_spec(trust=self.runtime.trust)
    tuned = settings.experiment(spec, perturb=perturb, update=update, image_size=shape[0])
    facts: Any = dict(num_classes=len(self.base.classes), num_examples=len(self.runtime.open(data)))
    program, state = experiment.rehearse(tuned, image_size=shape[0], mesh=mesh, **facts)
    assert state is not None  # the size is known
    hidden = prefix_cache.entering(program, state, shape) if cache else None
    size: Any = dict(batch_size=data.batch_size, image_size=shape[0], hidden=hidden)
    step = device_memory.predict(program, state, mesh=mesh, compiled=True, **size).total
    if cache is None or cache.where != "device":
      return step
    return step + prefix_cache.num_bytes(cache, program, state, data, self.runtime)


def _finite(value: float) -> float | None:
  """Replaces a non-finite value by None, because JSON has no NaN."""
  return value if np.isfinite(value) else None


def _written(gradient: Spec) -> Row:
  """Returns the layers that a rule names itself."""
  return {name: gradient.keywords.get(name) for name in ("perturb", "update")}


def _scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Computes mean cross-entropy, error rate and expected calibration error, in float64 on the host."""
  logits = np.asarray(logits, np.float64)
  shares = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
  values = losses.softmax_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
  right = np.argmax(logits, axis=-1) == labels
  return {
    "loss": float(np.mean(np.asarray(values), dtype=np.float64)),
    "error": float(np.mean(~right)),
    "ece": metrics.expected_calibration_error(np.minimum(shares.max(axis=-1), 1), right),
  }
