"""A source from a folder with one subfolder of image files per class."""

from __future__ import annotations

import functools
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxtl.data.names import shown, split_kind, split_rank, split_words
from jaxtl.data.sources.files import class_names, locate
from jaxtl.data.sources.source import DataDir, Source, need_two_classes
from jaxtl.data.sources.storage import Files
from jaxtl.errors import DataError, listed

# Formats that Pillow opens in addition to images: documents, films, and formats that it only recognises.
_NOT_IMAGES = frozenset(
  [".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf"]
)
# Folders and files that operating systems create, in lower case: thumbnails, recycle bins, view settings.
_SYSTEM_FOLDERS = frozenset(
  [
    *("__macosx", "__pycache__", "@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler"),
    *("lost+found", "system volume information"),
  ]
)
_SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"])

_Marks = frozenset[tuple[int, int]]


def from_folder(
  *,
  folder: str,
  data_dir: DataDir = None,
  classes: str | Sequence[str] | None = None,
  name: str | None = None,
) -> Source:
  """Opens the image files in class folders, at any depth and in every format that TensorFlow or Pillow reads.

  Links are followed. Hidden files and folders, those of operating systems (`__MACOSX`), and folders whose
  name starts with "__" are skipped. Files with other suffixes and images outside the class folders are
  skipped, too; the source lists both in `left_out`. A file that cannot be decoded is detected when it is
  used: see `BadRecords`, or run `jaxtl data check`.

  Args:
    folder: the folder that holds the class folders.
    data_dir: the folder that `folder` is relative to.
    classes: the folder names in the order of their labels, or the name of a JSON list of them in the folder.
      None means `classes.json` in the folder or, if the folder is named like a split, in its parent; without
      such a file, the sorted folder names. Names are compared in NFC. A given class needs no folder.
    name: shown in reports; None uses the folder's name.

  Raises:
    DataError: the folder or its class folders are missing or cannot be read; a link forms a loop or leads
      to nothing; a class folder holds no image or is not among the classes; the only class folder holds
      only folders; the class folders are splits, or numbers that sort differently as text.
  """
  root = locate(folder, data_dir)
  folders = _folders(root)
  if not folders:
    raise DataError(f"{shown(root)} has no class folders; expected {shown(root.name)}/<class>/<image files>")
  names = _given_classes(root, classes)
  given = names is not None
  if names is None:
    names = list(folders)
    refuse_numbers(root, names)
  unknown = [entry for entry in folders if entry not in names]
  if unknown:
    raise DataError(
      f"{shown(root / unknown[0])} is not one of the {len(names)} classes; "
      "add it to the list, or move it away"
    )
  holders = _holders(root)
  contents = {entry: _contents(root, places, holders) for entry, places in folders.items()}
  if not given:
    _refuse_splits(root, {entry: images for entry, (images, _) in contents.items()})
  if classes is None and not any(path.count("/") == 1 for images, _ in contents.values() for path in images):
    refuse_one_class(root, names)
  empty = [entry for entry, (images, _) in contents.items() if not images]
  if empty:
    raise DataError(f"{shown(root / empty[0])} holds no image files; remove the folder or fill it")
  label = {entry: number for number, entry in enumerate(names)}
  return Source(
    name=name or root.name,
    classes=tuple(names),
    labels=np.repeat([label[entry] for entry in contents], [len(images) for images, _ in contents.values()]),
    images=Files(root.absolute(), [path for images, _ in contents.values() for path in images]),
    left_out=(*_outside(root), *(shown(path) for _, others in contents.values() for path in others)),
  )


def class_folders(root: Path) -> list[str]:
  """Returns the sorted names of the class folders in a folder, in their printable form.

  Raises:
    DataError: the folder is a file, or cannot be read.
  """
  return list(_folders(root))


def image_files(root: Path) -> list[str]:
  """Returns the image files below a folder at any depth, relative to it and sorted; skips what
  `from_folder` skips.

  Raises:
    DataError: a folder cannot be read, or a link forms a loop or leads to nothing.
  """
  above = frozenset(_mark(str(folder)) for folder in root.resolve().parents)
  paths = (path.removeprefix("./") for path in _files_below(str(root), ".", above))
  return [path for path in paths if os.path.splitext(path)[1].lower() in image_suffixes()]


def given_names(root: Path) -> list[str] | None:
  """Returns the names in the `classes.json` of a folder, or None if there is no such file."""
  file = root / "classes.json"
  return [shown(name) for name in class_names(None, beside=file)] if file.is_file() else None


def refuse_one_class(root: Path, names: Sequence[str]) -> None:
  """Raises DataError if there is a single class; the message names the folder below with several folders."""
  if len(names) != 1:
    return
  place, below = root, _folders(root)
  while len(below) == 1 and (deeper := place / next(iter(below.values()))[0]).is_dir():
    place, below = deeper, _folders(deeper)
  need_two_classes(
    names,
    name=str(root),
    hint=f"{shown(place)} has the folders {listed(list(below), most=6)}: if these are the classes, open it"
    if below
    else f"put the images of each class into a folder of its own below {shown(root)}",
  )


def refuse_numbers(root: Path, names: Sequence[str]) -> None:
  """Raises DataError if the names are numbers whose text order differs from their numeric order."""
  # Sorted as text, folder "10" would become label 2: consistent, but wrong for a reader who takes labels for
  # the folder's numbers.
  if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
    example = json.dumps(sorted(names, key=int)[:3])[:-1]
    raise DataError(
      f"the class folders of {shown(root)} are numbers that sort as {', '.join(names[:3])}, ...; write "
      f"{shown(root / 'classes.json')}, a JSON list of the names in the order of their labels, like "
      f"{example}, ...] (in a config, classes=[...] does the same)"
    )


def left_out_line(source: object) -> str | None:
  """Returns one line about the files that a source of class folders skips, or None if there are none.

  All parts of one folder give the same line.
  """
  if not isinstance(source, Source) or not source.left_out:
    return None
  files = source.left_out
  kinds = Counter(map(why_left_out, files))
  counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))
  more = ", ..." if len(kinds) > 3 else ""
  some = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
  place = shown(source.images.root) if isinstance(source.images, Files) else source.name
  number = f"{len(files)} files are" if len(files) > 1 else "1 file is"
  return f"{place}: {number} left out: {counts}{more} ({some})"


def why_left_out(file: str) -> str:
  """Returns why a source of class folders skips a file, as a phrase that follows a number."""
  if file.endswith("/"):
    return 'folders whose name starts with "__"'
  suffix = os.path.splitext(file)[1].lower()
  if suffix in image_suffixes():
    return "outside the class folders"
  return f"with the suffix {suffix}" if suffix else "without a suffix"


@functools.cache
def image_suffixes() -> frozenset[str]:
  """Returns the lower-case suffixes of the formats that can be decoded; Pillow's include TensorFlow's."""
  from PIL import Image

  Image.init()
  known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
  return frozenset(known) - _NOT_IMAGES


# ---- contents of the folder


def _folders(root: Path) -> dict[str, list[str]]:
  """Returns class name -> its folders; the same name in two normal forms is one class."""
  if not root.is_dir():
    raise DataError(f"{shown(root)} is a file; give the folder that holds the class folders")
  folders: dict[str, list[str]] = {}
  for _, name, is_folder in _entries(str(root)):
    if is_folder and not _unused_folder(name):
      folders.setdefault(unicodedata.normalize("NFC", name), []).append(name)
  # Names that differ in NFC but print alike are refused, since they would become one class.
  by_name: dict[str, list[str]] = {}
  for name, places in sorted(folders.items()):
    if (text := shown(name)) in by_name:
      raise DataError(f"two class folders of {shown(root)} are both shown as {text}; rename one of them")
    by_name[text] = places
  return by_name


def _contents(root: Path, places: Sequence[str], holders: _Marks) -> tuple[list[str], list[str]]:
  """Returns the images and the other files in the folders of one class, relative to the root."""
  images: list[str] = []
  others: list[str] = []
  suffixes = image_suffixes()
  for place in places:
    for path in _files_below(str(root), place, holders):
      is_image = os.path.splitext(path)[1].lower() in suffixes
      (images if is_image else others).append(path)
  return images, others


def _files_below(root: str, place: str, holders: _Marks) -> Iterator[str]:
  """Yields the files of a folder at any depth, relative to the root; a skipped folder ends with "/"."""
  # A stack, since folders may be nested deeper than Python's recursion limit. None marks a file.
  pending: list[tuple[str, _Marks | None]] = [(place, holders)]
  while pending:
    path, above = pending.pop()
    if above is None:
      yield path
      continue
    here = _mark(f"{root}/{path}")
    if here in above:
      raise DataError(f"{shown(f'{root}/{path}')} is a link to a folder that holds it; remove the link")
    inside = above | {here}
    for _, name, is_folder in reversed(_entries(f"{root}/{path}")):
      if not is_folder:
        pending.append((f"{path}/{name}", None))
      elif not _unused_folder(name):
        pending.append((f"{path}/{name}", inside))
      elif name.startswith("__") and name.casefold() not in _SYSTEM_FOLDERS:
        pending.append((f"{path}/{name}/", None))


def _entries(folder: str) -> list[tuple[str, str, bool]]:
  """Returns the sorted (NFC name, name, is a folder) of all entries of a folder that are not hidden."""
  try:
    with os.scandir(folder) as found:
      entries = [
        (entry.name if entry.name.isascii() else unicodedata.normalize("NFC", entry.name), entry.name, kind)
        for entry in found
        if entry.name[0] != "." and entry.name.casefold() not in _SYSTEM_FILES
        if (kind := _is_folder(entry)) is not None
      ]
  except OSError as error:
    raise DataError(
      f"{shown(error.filename or folder)} cannot be read: {error.strerror or error}; "
      "grant permission, repair it, or move it away"
    ) from error
  return sorted(entries)


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
  """Returns True for a folder, False for a file, and None for pipes, sockets and devices.

  Raises:
    DataError: a link leads to nothing and has no image suffix, so it may stand for a whole folder.
  """
  if entry.is_dir():
    return True
  if entry.is_file():
    return False
  if not entry.is_symlink() or os.path.exists(entry.path):
    return None
  if os.path.splitext(entry.name)[1].lower() in image_suffixes():
    return False  # a single image, which the budget for unreadable images counts when it is used
  raise DataError(f"{shown(entry.path)} is a broken link; fix it or remove it")


def _unused_folder(name: str) -> bool:
  return name.startswith("__") or name.casefold() in _SYSTEM_FOLDERS


def _holders(root: Path) -> _Marks:
  """Returns the identities of the root and of all folders above it."""
  real = root.resolve()
  return frozenset(_mark(str(folder)) for folder in (real, *real.parents))


def _mark(folder: str) -> tuple[int, int]:
  """Returns the identity of a folder, which is the same for all links to it."""
  try:
    status = os.stat(folder)
  except OSError as error:
    raise DataError(
      f"{shown(folder)} cannot be read: {error.strerror or error}; repair it or move it away"
    ) from error
  return status.st_dev, status.st_ino


def _outside(root: Path) -> list[str]:
  """Lists images outside the class folders, and folders that are skipped because of their names."""
  names = []
  for _, name, is_folder in _entries(str(root)):
    if is_folder and name.startswith("__") and name.casefold() not in _SYSTEM_FOLDERS:
      names.append(shown(name) + "/")
    elif not is_folder and os.path.splitext(name)[1].lower() in image_suffixes():
      names.append(shown(name))
  return names


# ---- meaning of the folders


def _given_classes(root: Path, classes: str | Sequence[str] | None) -> list[str] | None:
  """Returns the class names of the argument or of `classes.json`, or None if both are missing."""
  if classes is not None:
    return [shown(name) for name in class_names(classes, beside=root / "classes.json")]
  names = given_names(root)
  if names is None and split_kind(root.absolute().name):
    names = given_names(root.absolute().parent)
    # A list that names the split itself lists the folders of the parent, not the classes.
    names = None if names is not None and shown(root.absolute().name) in names else names
  return names


def _several_kinds(names: Sequence[str]) -> bool:
  """Returns whether the names contain words for several kinds of splits."""
  return len({kind for name in names for kind in split_words(name)}) > 1


def _refuse_splits(root: Path, images: Mapping[str, Sequence[str]]) -> None:
  """Raises DataError if the class folders are splits, or contain splits."""
  direct = {entry: any(path.count("/") == 1 for path in paths) for entry, paths in images.items()}
  named = [entry for entry in images if split_kind(entry)]
  hinted = [entry for entry in images if split_words(entry) and not direct[entry]]
  nested = [entry for entry in named if images[entry] and not direct[entry]]
  splits = named if _several_kinds(named) or len(named) == len(images) else nested
  splits = splits or (hinted if _several_kinds(hinted) else [])
  if splits:
    splits = sorted(splits, key=split_rank)
    others = [entry for entry in images if entry not in splits]
    rest = f", next to {listed(others, most=6)}" if others else ""
    raise DataError(
      f"{shown(root)} holds the splits {listed(splits, most=6)}{rest}; open one of them, like "
      f"{shown(root / splits[0])}, or keep them alone in their folder (if they are classes, list all of them "
      f"in {shown(root / 'classes.json')})"
    )
  for entry, paths in images.items():
    below = sorted({path.split("/")[1] for path in paths if path.count("/") > 1})
    parts = [name for name in below if split_kind(name)]
    if _several_kinds(parts):
      raise DataError(
        f"{shown(root / entry)} holds the splits {listed(parts, most=6)}; write them above the classes, like "
        f"{shown(root.name)}/{parts[0]}/{entry}"
      )
