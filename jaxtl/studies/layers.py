"""Layers: which layer over-fits, and what post-training that repairs only it is worth beside its controls.

Diagnosis and PoL are those of Terauchi, Sato, Kawakami, "Model diagnosis for better generalisation" (in
Japanese); PoF is Sato et al., "PoF: Post-Training of Feature Extractor for Improving Generalization", 2022,
arXiv 2207.01847. A large fall of the test loss without one of the error is what a change of temperature looks
like, so every method is also measured with a temperature of its own, fitted on the validation images (Guo et
al., "On Calibration of Modern Neural Networks", 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import losses, metrics, train
from jaxtl.config import Spec
from jaxtl.errors import ConfigError, DataError
from jaxtl.studies import diagnosis as diagnosis_lib
from jaxtl.studies import transfer
from jaxtl.studies.diagnosis import Diagnosis
from jaxtl.studies.extent import Extent, Training
from jaxtl.train import checkpoint, experiment, memory, sharding
from jaxtl.train.checkpoint import Weights
from jaxtl.train.evaluate import collect_features
from jaxtl.train.experiment import Experiment, make_model
from jaxtl.train.post_training import PostTraining, post_train
from jaxtl.train.prefix_cache import PrefixCache
from jaxtl.train.processes import remember
from jaxtl.train.runtime import Data, Runtime, overlap, same_classes
from jaxtl.train.sizes import at_size, fitted, image_size_of
from jaxtl.train.training import Trained
from jaxtl.types import Array, Params

Row = dict[str, Any]
BASE = "base"
# What is also told of the weights after the last step -> its key in a report.
_LAST = {"loss": "test_loss", "error": "test_error", "scaled_loss": "scaled_loss"}


@dataclasses.dataclass(frozen=True)
class Method:
  """One way to go on from the base network.

  Attributes:
    gradient: makes the gradient rule: `.optim.plain`, `.optim.sam`, `.optim.pof`, `.optim.pol`, ...
    diagnosed: gives the rule the layers that the diagnosis chooses, as its `perturb` and `update`.
    cache: of the hidden states below what is updated.
  """

  gradient: Spec
  diagnosed: bool = False
  cache: PrefixCache = dataclasses.field(default_factory=lambda: PrefixCache("none"))


@dataclasses.dataclass(frozen=True)
class Layers:
  """The study: one base network per arm and seed, its diagnosis, and every method from there.

  Attributes:
    data: what is trained on, for as many epochs by every method.
    validation: what layers are chosen on, checkpoints and temperatures; never the test images.
    test: what is reported.
    task: the loss.
    optimizer: of the post-training; in the papers the last learning rate of the base run.
    methods: by name; the base itself is always reported.
    base: the run that makes the base network; its data may be augmented differently. None where `start` is.
    start: a checkpoint to take as base network, instead.
    diagnosis: of the base network, on held-out images; None for methods that name their layers.
    epochs: of every method; 10 in the papers.
    best: takes the checkpoint of the epoch with the lowest validation loss, the base included; False takes
      the last.
  """

  data: Data
  validation: Data
  test: Data
  task: Spec
  optimizer: Spec
  methods: Mapping[str, Method]
  base: Experiment | None = None
  start: str | None = None
  diagnosis: Diagnosis | None = None
  epochs: float = 10.0
  best: bool = True

  def __post_init__(self) -> None:
    diagnosed = [name for name, method in self.methods.items() if method.diagnosed]
    config_lib.require(
      base=(self.base, (self.base is None) != (self.start is None), "either base or start"),
      methods=(
        tuple(self.methods),
        len(self.methods) > 0 and BASE not in self.methods,
        f"some, none {BASE!r}",
      ),
      diagnosis=(self.diagnosis, self.diagnosis is not None or not diagnosed, "one, for diagnosed methods"),
      epochs=(self.epochs, self.epochs > 0, "a number above 0"),
    )
    held = [self.validation, *([self.diagnosis.data] if self.diagnosis else [])]
    trained = [self.data, *([self.base.data] if self.base else [])]
    if any(overlap(one, other) for one in trained for other in held):
      raise ConfigError(
        "validation or diagnosis has images of the training data, on which a trained network has nothing "
        "left to gain; hold out a part, .data.part_of(stop=0.9) and .data.part_of(start=0.9)"
      )
    if any(overlap(self.test, other) for other in held):
      raise ConfigError("validation has images of the test data; what is chosen must not be seen in the test")


def rows(study: Layers, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """The diagnosis's rows, then one for the base network and one for each method."""
  runtime.progress.title = f"{transfer.title(workdir)} | base"
  base = _base(study, seed, workdir, runtime)
  scene = Scene(study, base, runtime, seed, workdir)
  found: list[Row] = []
  if study.diagnosis is not None:
    runtime.progress.title = f"{transfer.title(workdir)} | diagnosis"
    found = remember(workdir / "diagnosis.json", scene.diagnose)["rows"]
    yield from found
  yield remember(workdir / "methods" / f"{BASE}.json", lambda: scene.report(BASE, base))
  chosen = diagnosis_lib.chosen(found) if found else (None, None)
  for name in study.methods:
    runtime.progress.title = f"{transfer.title(workdir)} | {name}"
    yield remember(workdir / "methods" / f"{name}.json", functools.partial(scene.go_on, name, chosen))


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """A base network and what is done with it."""

  study: Layers
  base: Weights
  runtime: Runtime
  seed: int
  workdir: Path

  def diagnose(self) -> dict[str, list[Row]]:
    """The rows of the diagnosis, of the loss that the methods train with."""
    assert self.study.diagnosis is not None
    size = self.runtime.image_shape(self.study.diagnosis.data)[0]
    model, params = fitted(self.base.model_spec(trust=self.runtime.trust), self.base, size)
    loss = self.study.task.realize(num_classes=len(self.base.classes)).loss
    stats = self.base.batch_stats
    return {"rows": diagnosis_lib.diagnose(self.study.diagnosis, model, params, stats, loss, self.runtime)}

  def go_on(self, name: str, chosen: tuple[str | None, str | None]) -> Row:
    """Trains by a method, and reports the checkpoint that is kept, and in `last_*` the last one."""
    method = self.study.methods[name]
    perturb, update = self._layers(name, method, chosen)
    settings = self.settings(method)
    folder = self.workdir / "post_training" / name
    trained = post_train(
      settings,
      self.base,
      seed=self.seed,
      runtime=self.runtime,
      perturb=perturb,
      update=update,
      workdir=folder,
    )
    step, kept = self._kept(trained, folder)
    reported = self.report(name, kept)
    last = reported if step == trained.total_steps else self.report(name, trained.weights)
    per_epoch = len(self.runtime.open(self.study.data))
    layers = {"perturb": perturb, "update": update} if method.diagnosed else _written(method.gradient)
    return reported | {
      **layers,
      # Where the kept step is the base's, what a method does shows only here.
      **{f"last_{key}": last[of] for key, of in _LAST.items()},
      "epochs": self.study.epochs,
      "steps": trained.total_steps,
      "kept_step": step,
      "seconds_per_epoch": _finite(per_epoch / trained.median("train/images_per_second")),
      "step_bytes": self._bytes(settings, perturb, update),
      "reject_rate": _finite(trained.last("train/rejects") / max(trained.total_steps, 1)),
    }

  def report(self, name: str, weights: Weights) -> Row:
    """Test loss, error and calibration, before and after a temperature fitted on the validation images."""
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
    """The method as a post-training, with a checkpoint and the validation loss after every epoch."""
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

  def _layers(
    self, name: str, method: Method, chosen: tuple[str | None, str | None]
  ) -> tuple[list[str] | None, list[str] | None]:
    """The blocks of the layers that the diagnosis chooses."""
    if not method.diagnosed:
      return None, None
    if None in chosen:
      raise DataError(f"the diagnosis has found no layer to choose for {name!r}; name its layers instead")
    found = remember(self.workdir / "diagnosis.json", self.diagnose)["rows"]
    blocks = {row["layer"]: row["layer_blocks"] for row in found}
    return blocks[str(chosen[0])], blocks[str(chosen[1])]

  def _kept(self, trained: Trained, folder: Path) -> tuple[int, Weights]:
    """The step with the lowest validation loss and its weights; step 0 is the base."""
    if not self.study.best:
      return trained.total_steps, trained.weights
    name = "eval/validation/cross_entropy"
    there = set(checkpoint.steps_in(folder / checkpoint.FOLDER))
    losses_at = {int(r["step"]): r[name] for r in trained.history if name in r and int(r["step"]) in there}
    losses_at[0] = _scores(*self._logits(self.base, self.study.validation))["loss"]
    step = min(sorted(losses_at), key=losses_at.__getitem__)
    if step == 0:
      return 0, self.base
    return step, checkpoint.load(folder / checkpoint.FOLDER / str(step))

  def _logits(self, weights: Weights, data: Data) -> tuple[np.ndarray, np.ndarray]:
    size = self.runtime.image_shape(data)[0]
    spec = self.base.model_spec(trust=self.runtime.trust)
    _, fitting = fitted(spec, weights, size)
    logits = _make_logits(make_model(at_size(spec, size), num_classes=len(weights.classes)))
    mesh = self.runtime.mesh
    params, stats = (sharding.put_replicated(x, mesh) for x in (fitting, weights.batch_stats))
    return collect_features(logits, params, stats, self.runtime.eval_batches(data), mesh=mesh)

  def _bytes(self, settings: PostTraining, perturb: Any, update: Any) -> int:
    """What a step needs on a device, as compiled, from images."""
    data, mesh = self.study.data, self.runtime.mesh
    size = self.runtime.image_shape(data)[0]
    spec = self.base.model_spec(trust=self.runtime.trust)
    tuned = settings.experiment(spec, perturb=perturb, update=update, image_size=size)
    facts: Any = dict(num_classes=len(self.base.classes), num_examples=len(self.runtime.open(data)))
    program, state = experiment.rehearse(tuned, image_size=size, mesh=mesh, **facts)
    assert state is not None  # the size is known
    return memory.predict(
      program, state, batch_size=data.batch_size, image_size=size, mesh=mesh, compiled=True
    ).total


def _base(study: Layers, seed: int, workdir: Path, runtime: Runtime) -> Weights:
  if study.base is None:
    assert study.start is not None  # the study has checked it
    return checkpoint.load(study.start)
  return train.run(study.base, seed=seed, runtime=runtime, workdir=workdir / BASE).weights


def _finite(value: float) -> float | None:
  """For JSON, which has no NaN: None where nothing was measured."""
  return value if np.isfinite(value) else None


def _written(gradient: Spec) -> Row:
  """The layers that a rule names itself."""
  return {name: gradient.keywords.get(name) for name in ("perturb", "update")}


def _scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Mean cross-entropy, share of errors, expected calibration error; float64 on the host."""
  logits = np.asarray(logits, np.float64)
  shares = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
  values = losses.softmax_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
  right = np.argmax(logits, axis=-1) == labels
  return {
    "loss": float(np.mean(np.asarray(values), dtype=np.float64)),
    "error": float(np.mean(~right)),
    "ece": metrics.expected_calibration_error(np.minimum(shares.max(axis=-1), 1), right),
  }


@functools.cache
def _make_logits(model: Any) -> Any:
  def logits(params: Params, batch_stats: Params, image: Array) -> Array:
    return model.apply(params, batch_stats, image)[0]["logits"]

  return jax.jit(logits)


def rehearse(study: Layers, runtime: Runtime) -> None:
  """Makes and traces the base run and every method whose layers are known."""
  facts: dict[str, Any] = dict(num_examples=transfer.SOME_EXAMPLES, mesh=runtime.mesh)
  for data in (study.data, study.validation, study.test):
    for spec in (*data.transforms, *data.batch_transforms):
      spec.realize()
  if study.base is not None:
    model = study.base.model
    classes = study.base.data.num_classes or transfer.SOME_CLASSES
    experiment.rehearse(study.base, num_classes=classes, image_size=image_size_of(study.base.data), **facts)
  elif Path(str(study.start)).exists():
    start = checkpoint.load(str(study.start))
    model, classes = start.model_spec(trust=runtime.trust), len(start.classes)
  else:
    return
  size = image_size_of(study.data) or image_size_of(study.test)
  for tuned in _methods(study, model, num_classes=classes).values():
    experiment.rehearse(tuned, num_classes=classes, image_size=size, **facts)


def _methods(
  study: Layers, model: Spec, *, num_classes: int, image_size: int | None = None
) -> dict[str, Experiment]:
  """Every method as an experiment on a model; for layers that a diagnosis will choose, some others."""
  found = {}
  for name, method in study.methods.items():
    if method.diagnosed:
      blocks = make_model(model, num_classes=num_classes).blocks
      layers: dict[str, Any] = dict(perturb=[blocks[-1]], update=[blocks[-2]])
    else:
      layers = {}
    settings = PostTraining(
      study.task, study.data, study.optimizer, epochs=study.epochs, gradient=method.gradient
    )
    found[name] = settings.experiment(model, image_size=image_size, **layers)
  return found


def extent(study: Layers, runtime: Runtime) -> Extent:
  """The images, the base run and every method."""
  found = Extent()
  begin = study.start if study.base is None else study.base.start
  start = None if begin is None else found.start(begin, trust=runtime.trust)
  parts = {"train": study.data, "validation": study.validation, "test": study.test}
  sizes = [f"{found.images(data, runtime)} {part}" for part, data in parts.items()]
  if study.diagnosis is not None:
    sizes.append(f"{study.diagnosis.num_examples} for the diagnosis")
  found.lines.append(("images", ", ".join(sizes)))
  if study.base is not None:
    found.trainings[BASE] = Training(study.base, found.facts(study.base.data, runtime))
    model = study.base.model
  elif start is not None:
    model = start.model_spec(trust=runtime.trust)
  else:
    return found
  known = found.facts(study.data, runtime)
  classes = transfer.SOME_CLASSES if known is None else known.num_classes
  size = None if known is None else known.image_size
  for name, tuned in _methods(study, model, num_classes=classes, image_size=size).items():
    found.trainings[name] = Training(tuned, known)
  return found


def check_data(study: Layers, runtime: Runtime) -> None:
  """Refuses a checkpoint that is not there, and parts with different classes."""
  if study.start is not None:
    checkpoint.find(study.start)
  classes = runtime.open(study.data).classes
  for name in ("validation", "test"):
    same_classes(classes, runtime.open(getattr(study, name)).classes, at=name)
  if study.base is not None:
    same_classes(classes, runtime.open(study.base.data).classes, at="base.data")


def work(study: Layers, runtime: Runtime) -> float:
  """Image passes of the base run and of all methods, for the time left."""
  passes = len(study.methods) * study.epochs * len(runtime.open(study.data))
  if study.base is not None and study.base.epochs is not None:
    passes += study.base.epochs * len(runtime.open(study.base.data)) * experiment.work_per_image(study.base)
  return passes
