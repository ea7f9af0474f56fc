"""Sources from npz files and from sheets of equally sized pictures, and helpers shared by file readers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.data.sources.source import TAKEN, DataDir, Source, from_arrays, numbered_classes
from jaxtl.data.sources.storage import Deferred
from jaxtl.errors import DataError, InputError

# Names after `<split>_` that are not targets.
_NPZ_OWN = ("images", "labels", "")
# A sheet holds 1000 pictures in 25 rows of 40.
_COLUMNS = 40
# CIFAR-10's sheets have no info.json: they hold the training set in its published order, then the test set.
_CIFAR10_TRAIN = 50_000
# Errors that the readers of json, numpy, zip, pyarrow and Pillow raise for a damaged file.
_DAMAGE = (
  *(ValueError, OSError, EOFError, SyntaxError, KeyError, RuntimeError),
  *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
# Longer messages are truncated to this many characters: numpy and zipfile quote whole damaged headers.
_LONGEST = 150


def from_npz(
  *,
  path: str,
  split: str,
  data_dir: DataDir = None,
  classes: Sequence[str] | None = None,
  name: str | None = None,
) -> Source:
  """Opens an npz file with the arrays `<split>_images` and `<split>_labels`.

  Keras' names `x_<split>` and `y_<split>` are accepted, too. Further arrays of numbers `<split>_NAME` with an
  entry for each image are the target NAME. Next to one of these, labels are optional.

  Args:
    path: the file.
    split: "train", "test", ...
    data_dir: the folder that `path` is relative to.
    classes: class names; None names them "0", "1", ... up to the largest label of any split.
    name: shown in reports; None uses `file/split`.

  Raises:
    DataError: the file or an array is missing or damaged, or the arrays do not fit together.
  """
  file = locate(path, data_dir)
  with _npz(file) as arrays:
    layouts = (f"{split}_images", f"{split}_labels"), (f"x_{split}", f"y_{split}")
    keys = next((layout for layout in layouts if all(key in arrays for key in layout)), None)
    images = arrays[(keys or layouts[0])[0]] if keys or layouts[0][0] in arrays else None
    targets = {} if images is None else _npz_targets(arrays, split, np.shape(images)[:1])
    if images is None or not (keys or targets):
      raise DataError(f"{file} has no {enumerated(layouts[0], ' and ')}; it has {enumerated(arrays)}")
    labels = None if keys is None else arrays[keys[1]].reshape(-1)
    if classes is None and labels is not None:
      every = [arrays[key] for key in arrays if key.endswith("_labels") or key.startswith("y_")]
      classes = numbered_classes(every, name=str(file))
  name = name or f"{file.stem}/{split}"
  return from_arrays(images=images, labels=labels, classes=classes, targets=targets, name=name)


def _npz_targets(
  arrays: Mapping[str, np.ndarray], split: str, num_images: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """Returns the targets of a split besides its labels: arrays of numbers with an entry for each image."""
  others = [key.removesuffix("images") for key in arrays if key.endswith("_images")]
  longer = tuple(start for start in others if start.startswith(f"{split}_") and start != f"{split}_")
  named = [key for key in arrays if key.startswith(f"{split}_") and not (longer and key.startswith(longer))]
  found = {key.removeprefix(f"{split}_"): key for key in named}
  read = {name: _numbers(arrays, key) for name, key in found.items() if name not in (*TAKEN, *_NPZ_OWN)}
  return {name: array for name, array in read.items() if array.ndim and array.shape[:1] == num_images}


def _numbers(arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
  """Returns an array of numbers, or an empty one if it holds something else."""
  nothing = np.zeros(())
  try:
    array = arrays[key]
  except ValueError:  # Python objects, which are not read
    return nothing
  return array if array.dtype.kind in "biuf" else nothing


def npz_splits(file: Path) -> list[str]:
  """Returns the splits that `from_npz` finds in a file."""
  with _npz(file) as arrays:
    found = [key.removesuffix("_images") for key in arrays if key.endswith("_images")]
    return found + [key.removeprefix("x_") for key in arrays if key.startswith("x_")]


def from_sheets(*, folder: str, split: str, data_dir: DataDir = None) -> Source:
  """Opens a folder of lossless sheets `sheet_000.webp`, ..., that hold small pictures, with `labels.npy`.

  A sheet holds 1000 square pictures, 40 per row, in the order of the labels; the last sheet is padded. The
  classes are in `classes.json` or `info.json`. The latter also gives the number of training pictures
  (`n_train`); the rest are the test split. Without a number or domains, CIFAR-10's 50,000 training pictures
  come first. With `domain.npy`, the splits are the domains that `info.json` names. Sheets are decoded when
  the images are first used, once per process.

  Args:
    folder: the folder that holds the sheets.
    split: "train", "test", or the name of a domain.
    data_dir: the folder that `folder` is relative to.

  Raises:
    DataError: a file is missing or damaged, or the split does not exist.
  """
  root = locate(folder, data_dir)
  ranges = sheet_splits(root)
  if split not in ranges:
    raise DataError(f"{root} has no split {split!r}; it has {', '.join(ranges)}")
  indices = ranges[split]
  labels = _vector(locate("labels.npy", root))[indices]
  info = _info(root)
  classes = info["classes"] if "classes" in info else class_names(None, beside=root / "labels.npy")
  # Only the sheets that hold this split are decoded.
  first, last = int(indices[0]) // 1000, int(indices[-1]) // 1000
  images = Deferred(lambda: _pictures(root, first, last, indices), len(indices))
  return Source(name=f"{root.name}/{split}", classes=tuple(classes), labels=labels, images=images)


def sheet_splits(root: Path) -> dict[str, np.ndarray]:
  """Returns split name -> indices of its pictures, for a folder of sheets.

  Raises:
    DataError: a file is missing or damaged, or the folder holds no pictures.
  """
  count, info = len(_vector(locate("labels.npy", root))), _info(root)
  if (root / "domain.npy").is_file():
    ranges = _domains(root, count, info)
  else:
    if info.get("n_train", 0) > count > 0:
      raise DataError(
        f"{root / 'info.json'}: n_train is {info['n_train']}, and labels.npy has {count} labels; add the rest"
      )
    num_train = min(info.get("n_train", _CIFAR10_TRAIN), count)
    ranges = {"train": np.arange(num_train), "test": np.arange(num_train, count)}
  ranges = {name: indices for name, indices in ranges.items() if len(indices)}
  if not ranges:
    raise DataError(f"{root} holds no pictures: labels.npy is empty, or domain.npy fits no name in info.json")
  return ranges


def locate(path: str | Path, data_dir: DataDir) -> Path:
  """Returns `data_dir / path`; raises DataError if it does not exist."""
  result = Path(os.path.expanduser(Path(data_dir or ".") / path))
  if not result.exists():
    hint = (
      "" if data_dir or Path(path).is_absolute() else "; give the folder above it with --data-dir (data_dir)"
    )
    raise DataError(f"there is no {result}{hint}")
  return result


def class_names(classes: str | Sequence[str] | None, *, beside: Path) -> list[str]:
  """Returns the given list, or reads the JSON list of that name in the folder of `beside`.

  None reads `classes.json`.
  """
  if classes is not None and not isinstance(classes, str):
    return [str(name) for name in classes]
  file = beside.parent / (classes or "classes.json")
  if not file.is_file():
    raise DataError(f"there is no {file}; write classes=[...] or a JSON list of names there")
  return _name_list(_json(file), file)


def _name_list(value: Any, file: Path, what: str = "") -> list[str]:
  if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
    raise DataError(f"{what}{file} should hold a JSON list of class names")
  return value


def _info(root: Path) -> dict[str, Any]:
  """Returns the checked contents of `info.json`, or {} if there is no such file."""
  file = root / "info.json"
  info = _json(file) if file.is_file() else {}
  if not isinstance(info, dict):
    raise DataError(f"{file} should hold a JSON mapping with classes, n_train or domains")
  for key in ("classes", "domains"):
    if key in info:
      _name_list(info[key], file, f"{key} in ")
  train = info.get("n_train", 0)
  if not isinstance(train, int) or train < 0:
    raise DataError(f"{file}: n_train is {train!r}; expected the number of training pictures")
  return info


def _domains(root: Path, count: int, info: dict[str, Any]) -> dict[str, np.ndarray]:
  domain = _vector(root / "domain.npy")
  if len(domain) != count:
    raise DataError(
      f"{root / 'domain.npy'} has {len(domain)} entries; expected one for each of {count} labels"
    )
  if "domains" not in info:
    raise DataError(
      f"{root / 'info.json'} names no domains; add a list of names for the numbers in domain.npy"
    )
  unnamed = np.flatnonzero(~np.isin(domain, np.arange(len(info["domains"]))))
  if len(unnamed):
    raise DataError(
      f"{root / 'domain.npy'}: picture {unnamed[0]} is of domain {domain[unnamed[0]]}; {root / 'info.json'} "
      f"names the domains 0 to {len(info['domains']) - 1} (pictures like this: {len(unnamed)})"
    )
  return {name: np.flatnonzero(domain == number) for number, name in enumerate(info["domains"])}


# ---- reading, with one-line errors for damaged files


@contextlib.contextmanager
def reading(file: Path, kind: str, *also: type[Exception]) -> Iterator[None]:
  """Converts the errors that readers raise for a damaged file into a DataError."""
  try:
    yield
  except InputError:
    raise
  except _DAMAGE + also as error:
    first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    first = first if len(first) <= _LONGEST else f"{first[:_LONGEST]} ..."
    raise DataError(f"{file} cannot be read as {kind}: {first}; replace it with a sound copy") from error


def enumerated(names: Iterable[str], between: str = ", ") -> str:
  """Joins names from a file; quotes a name that holds unprintable characters."""
  return between.join(name if name.isprintable() else repr(name) for name in names)


def _json(file: Path) -> Any:
  with reading(file, "JSON"):
    return json.loads(file.read_text(encoding="utf-8"))


@contextlib.contextmanager
def _npz(file: Path) -> Iterator[Any]:
  with reading(file, "npz"):
    arrays = np.load(file, allow_pickle=False)
    if isinstance(arrays, np.ndarray):
      raise DataError(
        f"{file} holds a single array; write it with np.savez(..., train_images=, train_labels=)"
      )
    with arrays:
      yield arrays


def _vector(file: Path) -> np.ndarray:
  with reading(file, "npy"):
    values = np.load(file, allow_pickle=False)
  if not isinstance(values, np.ndarray) or values.ndim != 1:
    raise DataError(f"{file} should hold one array of shape [N], a number for each picture")
  return values


@functools.lru_cache(maxsize=4)
def _sheets(root: Path, first: int, last: int) -> np.ndarray:
  files = [locate(f"sheet_{number:03d}.webp", root) for number in range(first, last + 1)]
  with ThreadPoolExecutor(max_workers=4) as pool:
    parts = list(pool.map(_cut, files))
  for file, part in zip(files, parts, strict=True):
    if part.shape[1:] != parts[0].shape[1:]:
      raise DataError(f"{file} has pictures of {part.shape[1]} pixels, {files[0]} of {parts[0].shape[1]}")
  return np.concatenate(parts)


def _pictures(root: Path, first: int, last: int, indices: np.ndarray) -> np.ndarray:
  sheets, wanted = _sheets(root, first, last), indices - first * 1000
  if len(sheets) <= wanted[-1]:
    raise DataError(
      f"the sheets of {root} hold {first * 1000 + len(sheets)} pictures; labels.npy has more; add the rest"
    )
  return sheets[wanted]


def _cut(file: Path) -> np.ndarray:
  from PIL import Image

  with reading(file, "a picture", Image.DecompressionBombError), Image.open(file) as image:
    sheet = np.asarray(image.convert("RGB"))
  side = sheet.shape[1] // _COLUMNS
  if not side or sheet.shape[1] % _COLUMNS or sheet.shape[0] % side:
    height, width = sheet.shape[:2]
    raise DataError(f"{file} is {height} x {width} pixels; expected rows of {_COLUMNS} square pictures")
  tiles = sheet.reshape(sheet.shape[0] // side, side, _COLUMNS, side, 3)
  return tiles.swapaxes(1, 2).reshape(-1, side, side, 3)
