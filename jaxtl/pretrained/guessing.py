"""Finds the architecture and the layout of a weight file that does not state them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.errors import CheckpointError, ConfigError, InputError
from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.catalogue import names
from jaxtl.pretrained.importing import Imported, import_weights

# Characters of the reason why a file does not fit.
_LONGEST = 200


def open_weights(path: Path, *, model: str | None = None, layout: str | None = None) -> Weights:
  """Opens a checkpoint, or a file of another library, whose classifier is kept if its classes are known.

  Args:
    path: a checkpoint, a file, or a folder that holds one.
    model, layout: of a file, as in `import_backbone`.

  Raises:
    InputError: there is nothing at the path, or it is neither a checkpoint nor a weight that can be imported.
    CheckpointError: the checkpoint is damaged.
  """
  try:
    checkpoint.find(path)
  except CheckpointError as error:
    if not path.exists():
      raise InputError(f"no weight at {path}: expected a checkpoint, or a file of weights") from error
    return import_backbone(path, model=model, layout=layout, head=True).weights
  return checkpoint.load(path)


def import_backbone(
  path: Path, *, model: str | None = None, layout: str | None = None, head: bool = False
) -> Imported:
  """Imports a weight file without its classifier, by the first layout that fits all other tensors.

  Args:
    path: a file, or a folder that holds one.
    model: name of a function of `jaxtl.models`; None takes the longest one that the path contains.
    layout: name of a layout; None tries all that have the model.
    head: keeps the classifier if the file has one whose classes are known.

  Raises:
    InputError: the file does not exist, its path contains no model, or no layout fits.
  """
  if not path.exists():
    raise InputError(f"no weight at {path}: expected a checkpoint, or a .safetensors, .npz or .pth file")
  model = model or model_in_name(path)
  if layout is not None and layout not in LAYOUTS:
    raise InputError(f"no layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
  candidates = [LAYOUTS[layout]] if layout else [one for one in LAYOUTS.values() if one.has(model)]
  problems = []
  for candidate, with_head in [
    (one, kept) for one in candidates for kept in ((True, False) if head else (False,))
  ]:
    try:
      return import_weights(path, model=model, layout=candidate, head=with_head)
    except (CheckpointError, ConfigError, InputError) as error:
      problems.append(f"{candidate.name}: {error}")
  tried = ", ".join(candidate.name for candidate in candidates) or "none"
  # Where no tensor is missing, the layout is probably right, and a keyword of the model is not.
  nearest = sorted(problems, key=lambda text: "is missing" in text)[:1]
  why = "".join(f" (by {text[:_LONGEST]}{'...' * (len(text) > _LONGEST)})" for text in nearest)
  raise InputError(
    f"{path} does not fit {model} in any layout that has it: {tried}{why}; give --as MODEL, or import it "
    "with jaxtl import, which takes keywords of the model like width_factor=0.5, and give the result"
  )


def model_in_name(path: Path) -> str:
  """Returns the longest name of a model that a path contains, such as `resnet50` in `resnet50-11ad3fa6.pth`.

  The file's own name counts before that of its folder.

  Raises:
    InputError: neither contains one.
  """
  for name in (path.stem, path.parent.name):
    found = [model for model in names() if _plain(model) in _plain(name)]
    if found:
      return max(found, key=len)
  raise InputError(f"the name of {path} contains no architecture; give --as MODEL, one of {_few(names())}")


def _plain(name: str) -> str:
  return re.sub(r"[^a-z0-9]", "", name.lower())


def _few(all_names: Sequence[str]) -> str:
  return f"{', '.join(all_names[:6])}, ..."
