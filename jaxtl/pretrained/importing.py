"""Import of weight files from other libraries as jaxtl checkpoints."""

from __future__ import annotations

import dataclasses
import importlib.resources
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data import Preprocessing
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError
from jaxtl.pretrained import families, prefixes
from jaxtl.pretrained.layouts.layout import Entry, Layout, Tensors, read
from jaxtl.pretrained.readers import WeightFile, read_source
from jaxtl.pretrained.side_files import PREPARED
from jaxtl.pretrained.source_facts import Facts, read_facts
from jaxtl.train.step import shapes_of
from jaxtl.types import Model

TASK = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy"))
BACKGROUND = "background"


@dataclasses.dataclass(frozen=True)
class Imported:
  """An imported weight.

  Attributes:
    weights: the jaxtl checkpoint with its config.
    model: the model that computes its features.
    entries: the origin of each leaf.
    fresh: allowed paths that are missing in the file, initialised with seed 0.
    left_over: allowed keys of the file that have no counterpart.
    other: number of tensors that belong to another model in the same file.
    source: the file, with its tensors under the names of the layout.
    preprocessing: the preprocessing that the weight expects; None if it takes texts.
    assumed: those of `PREPARED` that neither the options nor the config files specify.
    notes: changes made to the names, and differences from the original's preprocessing.
  """

  weights: Weights
  model: Model
  entries: Sequence[Entry]
  fresh: Sequence[str]
  left_over: Sequence[str]
  other: int
  source: WeightFile
  preprocessing: Preprocessing | None = None
  assumed: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()


def import_weights(
  path: Path,
  *,
  model: str,
  layout: Layout,
  keywords: Mapping[str, Any] | None = None,
  classes: Sequence[str] | None = None,
  allow: Sequence[str] = (),
  preprocessing: Mapping[str, Any] | None = None,
  head: bool = True,
  prefix: str | None = None,
) -> Imported:
  """Reads a file of weights into a jaxtl model.

  Args:
    path: a file, or a folder that holds a file of weights and its config files.
    model: name of a function of `jaxtl.models`.
    layout: the layout that defines the names in the file.
    keywords: keywords of the model; they override those of the config files and of the layout.
    classes: names of the outputs in order, which override those of the config files; None uses the config
      files, else ImageNet's classes for 1,000 outputs, preceded by a background class for 1,001.
    allow: regexes of jaxtl paths that may be missing in the file, and of its keys that may be left over.
    preprocessing: fields of `Preprocessing`, which override those of the config files and of the layout.
    head: whether to read the classifier; without it, the weight has no classes.
    prefix: prefix of the tensors' names; None finds the one that fits.

  Raises:
    InputError: the file, the model or a keyword does not exist, or the class list has another length.
    CheckpointError: the file is damaged, or does not fit the model.
  """
  target = config_lib.find(f".models.{model}", at="--as")
  if not layout.has(model):
    raise InputError(f"the layout {layout.name!r} has no {model}; it has {layout.covers}")
  source = read_source(path)
  facts = read_facts(source.path.parent, layout.name, model)
  overrides = dict(preprocessing or {})
  chosen = {**layout.keywords(model), **facts.keywords}
  if "size" in overrides and "image_size" in inspect.signature(target).parameters:
    chosen["image_size"] = overrides["size"]
  chosen |= keywords or {}
  head = head and not _says_no_head(target, chosen)
  first = _first_spec(model, chosen)
  probe = _probe(first, layout)
  expected_keys = [key for entry in probe for key in entry.keys]
  renamed = prefixes.without_prefixes(source.tensors, expected_keys, canonical=layout.renamed, prefix=prefix)
  source = dataclasses.replace(source, tensors=renamed.tensors)
  tensors = layout.canonical(source.tensors)
  notes = [f"read from below {source.below} in the file"] if source.below else []
  notes += [*renamed.notes, *facts.notes]
  if not head:
    tensors, note = _headless(tensors, probe, first)
    notes += note
  spec = _fitted(first, probe, tensors)
  kind = families.family(source.path, facts.family, tensors)
  expected, assumed = _expected(spec, overrides, facts, layout, model, kind)
  made, inputs = _realized(spec, tensors, probe, head=head), _input_shape(spec, expected)
  shapes = shapes_of(made, inputs)
  entries = layout.entries(made, shapes)
  mine, other = layout.split(made, shapes, tensors)
  found, left = read(entries, mine, shapes, allow=allow)
  found, fresh = _with_fresh(found, made, inputs)
  names = _class_names(_outputs(shapes), classes, facts.classes)
  about = {
    "model": config_lib.plain(spec),
    "task": TASK,
    "classes": list(names),
    "image_shape": list(inputs),
    "transforms": expected.specs() if len(inputs) == 3 else None,
    "source": {"file": source.path.name, "sha256": source.sha256, "layout": layout.name},
  }
  ours = Weights(found["params"], found["batch_stats"], about, str(source.path))
  images = expected if len(inputs) == 3 else None
  if images is not None and kind and set(assumed) & {"mean", "std"}:
    notes.append(f"recognised as a weight of {kind}, by its name or its tensors")
  return Imported(
    *(ours, made, entries, fresh, left, other + renamed.dropped, source),
    preprocessing=images,
    assumed=assumed if images is not None else (),
    notes=tuple(notes),
  )


def _says_no_head(target: Callable[..., Any], chosen: dict[str, Any]) -> bool:
  """Returns whether the keywords omit the classifier; if so, removes `num_classes` from them."""
  if "num_classes" not in inspect.signature(target).parameters or chosen.get("num_classes") != 0:
    return False
  del chosen["num_classes"]
  return True


def _first_spec(model: str, chosen: Mapping[str, Any]) -> Spec:
  # Some keywords come from a config file next to the weights, which is untrusted data.
  for key, value in chosen.items():
    if key in config_lib.KINDS or isinstance(value, (Mapping, list, tuple)):
      raise InputError(f"{key}={value!r} is not a keyword of a model; expected a number or a name")
  return config_lib.spec({"make": f".models.{model}", **chosen}, at=model, trusted=config_lib.TRUSTED)


def _probe(spec: Spec, layout: Layout) -> list[Entry]:
  """Returns the entries of the model with one class: all names, and all shapes except the classifier's."""
  parameters = inspect.signature(spec.target).parameters
  keywords = {**{k: p.default for k, p in parameters.items()}, **spec.keywords}
  size = keywords.get("image_size", 64)
  inputs = (keywords["context"],) if "context" in parameters else (size, size, 3)
  made = spec.realize(num_classes=1)
  return layout.entries(made, shapes_of(made, inputs))


def _headless(
  tensors: Mapping[str, np.ndarray], probe: Sequence[Entry], spec: Spec
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Returns the tensors without those of the classifier, and a note about the omission.

  Raises:
    InputError: the model has no classifier.
  """
  keys = {key for entry in probe if entry.path.startswith("params/head/") for key in entry.keys}
  if not keys:
    raise InputError(f"{spec.path.rpartition('.')[2]} has no classifier; leave --no-head out")
  left = {key: value for key, value in tensors.items() if key not in keys}
  dropped = sorted(keys & set(tensors))
  shapes = ", ".join(f"{key} {tuple(tensors[key].shape)}" for key in dropped)
  return left, [f"classifier left out: {shapes}"] if dropped else []


def _fitted(spec: Spec, probe: Sequence[Entry], tensors: Tensors) -> Spec:
  """Sets the image size of the model to that of the file's position embedding, unless a size is given."""
  parameters = inspect.signature(spec.target).parameters
  if "image_size" not in parameters or "image_size" in spec.keywords:
    return spec
  size = parameters["image_size"].default
  entry = next(e for e in probe if e.path == "params/embed/positions")
  if any(key not in tensors for key in entry.keys):
    return spec
  patch = next(e for e in probe if e.path == "params/embed/proj/kernel").shape[0]
  try:
    rows = entry.rule.to_ours([tensors[key] for key in entry.keys], entry.shape).shape[1]
  except (ValueError, IndexError):  # another width or rank, which `read` reports with all other problems
    return spec
  tokens = entry.shape[1] - (size // patch) ** 2
  grid = math.isqrt(max(rows - tokens, 0))
  if grid < 1 or rows - grid**2 != tokens:
    return spec
  return dataclasses.replace(spec, keywords={**spec.keywords, "image_size": grid * patch})


def _realized(spec: Spec, tensors: Tensors, probe: Sequence[Entry], *, head: bool) -> Model:
  """Makes the model with as many classes as the file's classifier, or without classes if there is none."""
  if "num_classes" not in inspect.signature(spec.target).parameters:
    return spec.realize()
  kernel = next(entry for entry in probe if entry.path == "params/head/kernel")
  if not head or any(key not in tensors for key in kernel.keys):
    return spec.realize(num_classes=0)
  try:
    classes = kernel.rule.to_ours([np.asarray(tensors[key]) for key in kernel.keys], kernel.shape).shape[-1]
  except ValueError as error:
    shape = tuple(tensors[kernel.keys[0]].shape)
    raise CheckpointError(f"{kernel.keys[0]} is {shape}, which is not a classifier") from error
  return spec.realize(num_classes=classes)


def _expected(
  spec: Spec, overrides: Mapping[str, Any], facts: Facts, layout: Layout, model: str, kind: str
) -> tuple[Preprocessing, tuple[str, ...]]:
  """Returns (preprocessing, its assumed parts), from the options, else the files, else the layout."""
  usual = families.prepared(layout.preprocessing(model), layout.name, model, kind)
  base, assumed = facts.preprocessing or usual, facts.assumed
  if facts.preprocessing is None:
    assumed = PREPARED
  if "image_size" in spec.keywords:  # a position embedding is for one size
    overrides = {"size": spec.keywords["image_size"], **overrides}
  try:
    chosen = dataclasses.replace(base, **overrides)
  except (ConfigError, DataError) as error:
    raise InputError(f"preprocessing: {error}") from error
  return chosen, tuple(key for key in assumed if key not in overrides)


def _input_shape(spec: Spec, expected: Preprocessing) -> tuple[int, ...]:
  parameters = inspect.signature(spec.target).parameters
  if "context" in parameters:
    return (spec.keywords.get("context", parameters["context"].default),)
  return (expected.size, expected.size, 3)


def _with_fresh(found: Any, model: Model, inputs: tuple[int, ...]) -> tuple[Any, list[str]]:
  """Fills the missing leaves of the tree with initial values; returns the tree and their paths."""
  leaves = zip(tree.paths(found), jax.tree.leaves(found), strict=True)
  fresh = [path for path, leaf in leaves if not isinstance(leaf, np.ndarray)]
  if not fresh:
    return found, fresh
  params, batch_stats = model.init(jax.random.key(0), jnp.zeros((1, *inputs)))
  initial = {"params": params, "batch_stats": batch_stats}

  def choose(value: Any, start: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(start)

  return jax.tree.map(choose, found, initial), fresh


def _outputs(shapes: Any) -> int:
  head = shapes["params"].get("head", {})
  return int(head["kernel"].shape[-1]) if "kernel" in head else 0


def _class_names(count: int, given: Sequence[str] | None, beside: Sequence[str] | None) -> tuple[str, ...]:
  """Returns the class names of `count` outputs.

  Raises:
    InputError: the list has another length, or there is no list.
  """
  names = given if given is not None else beside
  if names is None and count in (1000, 1001):
    names = (*([BACKGROUND] if count == 1001 else []), *imagenet_classes())
  if count == 0 and given is None:
    return ()
  if names is None:
    raise InputError(
      f"the file's classifier has {count} outputs, and nothing names them; give --classes FILE, "
      f"a JSON list of {count} names"
    )
  if len(names) != count:
    raise InputError(f"the file's classifier has {count} outputs; the class list has {len(names)} names")
  return tuple(names)


def imagenet_classes() -> tuple[str, ...]:
  """Returns ImageNet's 1,000 classes in the order of their WordNet ids, as `n01440764 tench, Tinca tinca`."""
  file = importlib.resources.files("jaxtl.pretrained") / "imagenet_classes.txt"
  return tuple(file.read_text(encoding="utf-8").splitlines())


def read_classes(path: Path) -> tuple[str, ...]:
  """Reads a class list from a JSON list or a text file with one name per line.

  Raises:
    InputError: the file does not exist, or does not hold a list of names.
  """
  if not path.is_file():
    raise InputError(f"no class list at {path}")
  as_json = path.suffix == ".json"
  try:
    text = path.read_text(encoding="utf-8")
    names = json.loads(text) if as_json else [line for line in text.splitlines() if line]
  except (RecursionError, ValueError) as error:
    raise InputError(f"{path} is not {'valid JSON' if as_json else 'UTF-8 text'}") from error
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise InputError(f"{path} is not a JSON list of names")
  return tuple(names)
