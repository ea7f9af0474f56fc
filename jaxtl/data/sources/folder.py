"""A source from a folder with one sub-folder of image files for each class."""

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

# What Pillow opens besides images: documents, films, and formats that it only recognises.
_NOT_IMAGES = frozenset(
  [".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf"]
)
# Folders and files that operating systems create, in lower case: thumbnails, waste baskets, view settings.
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
  """Image files in class folders, of any depth and of every format that TensorFlow or Pillow reads.

  Links are followed. Hidden files and folders, those of systems (`__MACOSX`), and folders whose name starts
  with "__" are left out. So are files with other suffixes, and images outside the class folders; the source
  lists both in `left_out`. Whether a file can be decoded is found out when it is used: see `BadRecords`, or
  run `jaxtl data check`.

  Args:
    folder: holds the class folders.
    data_dir: the folder that `folder` is relative to.
    classes: the folder names in the order of their labels, or the name of a JSON list of them in the folder.
      None means `classes.json` in the folder or, if the folder has a split's name, in the one above; else the
      sorted folder names. Names are compared in NFC. A class that is given needs no folder.
    name: shown in reports; None takes the folder's name.

  Raises:
    DataError: the folder or its class folders are missing or cannot be read; a link forms a loop or leads
      to nothing; a class folder holds no image or is not among the classes; the only class folder holds
      folders alone; the class folders are splits, or numbers that sort differently as text.
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
  """Returns the sorted names of the class folders in a folder, as they are shown.

  Raises:
    DataError: the folder is a file, or cannot be read.
  """
  return list(_folders(root))


def given_names(root: Path) -> list[str] | None:
  """Returns the names in `classes.json` of a folder; None if there is no such file."""
  file = root / "classes.json"
  return [shown(name) for name in class_names(None, beside=file)] if file.is_file() else None


def refuse_one_class(root: Path, names: Sequence[str]) -> None:
  """Raises DataError if there is a single class; names the folder below that has several folders."""
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
  """Raises DataError if names are numbers whose order as text is not theirs as numbers."""
  # Sorted as text, folder "10" would become label 2: right in itself, wrong for whoever reads labels as
  # numbers.
  if all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
    example = json.dumps(sorted(names, key=int)[:3])[:-1]
    raise DataError(
      f"the class folders of {shown(root)} are numbers that sort as {', '.join(names[:3])}, ...; write "
      f"{shown(root / 'classes.json')}, a JSON list of the names in the order of their labels, like "
      f"{example}, ...] (in a config, classes=[...] does the same)"
    )


def left_out_line(source: object) -> str | None:
  """Returns one line about the files that a source of class folders leaves out; None if there are none.

  Parts of one folder have the same line.
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
  """Returns why a source of class folders leaves a file out, as a phrase that follows a number."""
  if file.endswith("/"):
    return 'folders whose name starts with "__"'
  suffix = os.path.splitext(file)[1].lower()
  if suffix in image_suffixes():
    return "outside the class folders"
  return f"with the suffix {suffix}" if suffix else "without a suffix"


@functools.cache
def image_suffixes() -> frozenset[str]:
  """Suffixes, in lower case, of the formats that can be decoded; Pillow knows TensorFlow's too."""
  from PIL import Image

  Image.init()
  known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
  return frozenset(known) - _NOT_IMAGES


# ---- what lies in the folder


def _folders(root: Path) -> dict[str, list[str]]:
  """Class name -> the folders of that name; one name in two normal forms is one class."""
  if not root.is_dir():
    raise DataError(f"{shown(root)} is a file; give the folder that holds the class folders")
  folders: dict[str, list[str]] = {}
  for _, name, is_folder in _entries(str(root)):
    if is_folder and not _unused_folder(name):
      folders.setdefault(unicodedata.normalize("NFC", name), []).append(name)
  # Sorted by what is compared, then shown: two names that only look the same stay two, and are refused.
  by_name: dict[str, list[str]] = {}
  for name, places in sorted(folders.items()):
    if (text := shown(name)) in by_name:
      raise DataError(f"two class folders of {shown(root)} are both shown as {text}; rename one of them")
    by_name[text] = places
  return by_name


def _contents(root: Path, places: Sequence[str], holders: _Marks) -> tuple[list[str], list[str]]:
  """The images, and the other files, of the folders of one class, relative to the root."""
  images: list[str] = []
  others: list[str] = []
  suffixes = image_suffixes()
  for place in places:
    for path in _files_below(str(root), place, holders):
      is_image = os.path.splitext(path)[1].lower() in suffixes
      (images if is_image else others).append(path)
  return images, others


def _files_below(root: str, place: str, holders: _Marks) -> Iterator[str]:
  """The files of a folder, of any depth, relative to the root; a folder that is left out ends with "/"."""
  # None marks a file. A stack, since the depth of folders may exceed that of Python's calls.
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
  """The (NFC name, name, is a folder) of all that is not hidden in a folder, sorted."""
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
  """Whether an entry is a folder or a file; None for pipes, sockets and devices.

  Raises:
    DataError: a link leads to nothing, and its name is not an image's: it may stand for a whole folder.
  """
  if entry.is_dir():
    return True
  if entry.is_file():
    return False
  if not entry.is_symlink() or os.path.exists(entry.path):
    return None
  if os.path.splitext(entry.name)[1].lower() in image_suffixes():
    return False  # one image: it is unreadable when it is used, and the budget for those counts it
  raise DataError(f"{shown(entry.path)} is a broken link; fix it or remove it")


def _unused_folder(name: str) -> bool:
  return name.startswith("__") or name.casefold() in _SYSTEM_FOLDERS


def _holders(root: Path) -> _Marks:
  """The root and all folders above it."""
  real = root.resolve()
  return frozenset(_mark(str(folder)) for folder in (real, *real.parents))


def _mark(folder: str) -> tuple[int, int]:
  """Returns the identity of a folder, whatever links lead to it."""
  try:
    status = os.stat(folder)
  except OSError as error:
    raise DataError(
      f"{shown(folder)} cannot be read: {error.strerror or error}; repair it or move it away"
    ) from error
  return status.st_dev, status.st_ino


def _outside(root: Path) -> list[str]:
  """Lists images outside the class folders, and folders that are left out by their names."""
  names = []
  for _, name, is_folder in _entries(str(root)):
    if is_folder and name.startswith("__") and name.casefold() not in _SYSTEM_FOLDERS:
      names.append(shown(name) + "/")
    elif not is_folder and os.path.splitext(name)[1].lower() in image_suffixes():
      names.append(shown(name))
  return names


# ---- what its folders are


def _given_classes(root: Path, classes: str | Sequence[str] | None) -> list[str] | None:
  """Returns the class names of the argument or of `classes.json`; None without either."""
  if classes is not None:
    return [shown(name) for name in class_names(classes, beside=root / "classes.json")]
  names = given_names(root)
  if names is None and split_kind(root.absolute().name):
    names = given_names(root.absolute().parent)
    # A list that names the split itself is one of the folders above.
    names = None if names is not None and shown(root.absolute().name) in names else names
  return names


def _several_kinds(names: Sequence[str]) -> bool:
  """Whether the words of some names are those of several kinds of splits."""
  return len({kind for name in names for kind in split_words(name)}) > 1


def _refuse_splits(root: Path, images: Mapping[str, Sequence[str]]) -> None:
  """Raises DataError if class folders are splits, or are split themselves."""
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
