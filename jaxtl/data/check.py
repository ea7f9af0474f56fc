"""Checks of a data set: counts, image sizes, unreadable files, duplicates and overlaps between splits."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxtl.data.pipeline import train_batches
from jaxtl.data.preview import augmented_preview, contact_sheet
from jaxtl.data.sources.by_name import open_source
from jaxtl.data.sources.folder import why_left_out
from jaxtl.data.sources.source import DataDir, Source
from jaxtl.data.sources.tfds import RecordSource, StreamSource
from jaxtl.data.stream import AnySource, Transform
from jaxtl.data.transforms import augment, images
from jaxtl.errors import DataError

if TYPE_CHECKING:
  from PIL import Image

# `render` shows at most this many lines of each list.
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Report:
  """The findings of `check` for one split.

  Attributes:
    name, kind, classes: those of the source.
    counts: number of examples per class, in the order of the classes.
    sizes: (min, median, max) of the heights and of the widths, over the readable images.
    unreadable: one line per image that cannot be decoded.
    duplicates: groups of examples with exactly equal pixels; each example is listed with its class.
    overlaps: name of another split -> pairs (example here, example there) with equal pixels.
    fingerprint: fingerprint of the source.
    left_out: unused files of a folder, most of them skipped because of their suffix.
  """

  name: str
  kind: str
  classes: tuple[str, ...]
  counts: tuple[int, ...]
  sizes: tuple[tuple[int, float, int], tuple[int, float, int]] | None
  unreadable: tuple[str, ...]
  duplicates: tuple[tuple[str, ...], ...]
  overlaps: Mapping[str, tuple[tuple[str, str], ...]]
  fingerprint: str
  left_out: tuple[str, ...] = ()


def check(source: AnySource, *, others: Sequence[AnySource] = ()) -> Report:
  """Decodes every image of a source, counts and measures them, and finds duplicates within and across splits.

  Args:
    source: the source to check.
    others: splits that should share no image with it.
  """
  return _reports([source, *others], count=1)[0]


def check_source(
  text: str,
  *,
  data_dir: DataDir = None,
  label_column: str | None = None,
  image_column: str | None = None,
  out: Path | str,
  transforms: Sequence[Transform] | None = None,
  mean: Sequence[float] = (0.0, 0.0, 0.0),
  std: Sequence[float] = (1 / 255, 1 / 255, 1 / 255),
) -> str:
  """Checks every split of a data set, and writes `contact_sheet.png` and `augmented.png`.

  Args:
    text, data_dir, label_column, image_column: as in `open_source`.
    out: the folder for the pictures.
    transforms: transforms shown in `augmented.png`; None means a flip and a random resized crop.
    mean, std: the statistics with which `transforms` normalise, if they do.

  Returns:
    The findings as text for printing.
  """
  opened = open_source(text, data_dir=data_dir, label_column=label_column, image_column=image_column)
  splits = {name: _in_memory(source) for name, source in opened.items()}
  reports = _reports(list(splits.values()), count=len(splits))
  out = Path(out)
  out.mkdir(parents=True, exist_ok=True)
  first = next(iter(splits.values()))
  examples = _some_per_class(first)
  sheet = contact_sheet([image for image, _ in examples], [title for _, title in examples])
  sheet.save(out / "contact_sheet.png")
  _augmented(first, transforms, mean=mean, std=std).save(out / "augmented.png")
  written = f"wrote {out / 'contact_sheet.png'} and {out / 'augmented.png'}"
  return "\n".join([render(dict(zip(splits, reports, strict=True))), "", written])


def render(reports: Mapping[str, Report]) -> str:
  """Renders the reports of one data set as text: a table of counts, then a paragraph per split."""
  lines = _table(reports)
  for split, report in reports.items():
    lines += [
      "",
      f"{split}: {report.name}, {sum(report.counts)} {report.kind} images, fingerprint {report.fingerprint}",
    ]
    if report.sizes:
      height, width = (f"{low} / {middle:g} / {high}" for low, middle, high in report.sizes)
      lines.append(f"  size, min / median / max: height {height}, width {width}")
    lines += _left_out(report.left_out)
    lines += _listed("unreadable images", report.unreadable)
    lines += _listed("groups of equal images", [" = ".join(group) for group in report.duplicates])
    for other, pairs in report.overlaps.items():
      lines += _listed(f"images that are also in {other}", [f"{here} = {there}" for here, there in pairs])
    empty = [name for name, count in zip(report.classes, report.counts, strict=True) if not count]
    lines += _listed("classes without images", empty)
  return "\n".join(lines)


# ---- scanning


@dataclasses.dataclass(frozen=True)
class _Scan:
  source: Source | RecordSource
  hashes: tuple[bytes | None, ...]
  shapes: np.ndarray
  unreadable: tuple[str, ...]

  def name(self, index: int) -> str:
    return f"{self.source.where(index)} [{self.source.classes[self.source.labels[index]]}]"

  @functools.cached_property
  def groups(self) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for index, value in enumerate(self.hashes):
      if value is not None:
        found.setdefault(value, []).append(index)
    return found


def _reports(sources: Sequence[AnySource], *, count: int) -> list[Report]:
  scans = [_scan(_in_memory(source)) for source in sources]
  return [_report(scan, [other for other in scans if other is not scan]) for scan in scans[:count]]


def _scan(source: Source | RecordSource) -> _Scan:
  hashes: list[bytes | None] = []
  shapes, unreadable = [], []
  for index in range(len(source)):
    try:
      image = source.read(index)
    except (DataError, OSError) as error:
      unreadable.append(
        str(error) if isinstance(error, DataError) else f"{source.name}: {source.where(index)}: {error}"
      )
      hashes.append(None)
      continue
    shapes.append(image.shape[:2])
    # Hash the shape too: two uniform images of different sizes can have the same bytes.
    hashes.append(hashlib.blake2b(np.ascontiguousarray(image).data, key=repr(image.shape).encode()).digest())
  return _Scan(source, tuple(hashes), np.array(shapes).reshape(-1, 2), tuple(unreadable))


def _report(scan: _Scan, others: Sequence[_Scan]) -> Report:
  source = scan.source
  counts = np.bincount(source.labels, minlength=len(source.classes))
  heights, widths = scan.shapes.T
  span = lambda values: (int(values.min()), float(np.median(values)), int(values.max()))  # noqa: E731
  overlaps = {}
  for other in others:
    common = [value for value in scan.groups if value in other.groups]
    overlaps[other.source.name] = tuple(
      (scan.name(scan.groups[value][0]), other.name(other.groups[value][0])) for value in common
    )
  return Report(
    name=source.name,
    kind=source.kind,
    classes=source.classes,
    counts=tuple(int(count) for count in counts),
    sizes=(span(heights), span(widths)) if len(scan.shapes) else None,
    unreadable=scan.unreadable,
    duplicates=tuple(tuple(map(scan.name, group)) for group in scan.groups.values() if len(group) > 1),
    overlaps=overlaps,
    fingerprint=source.fingerprint(),
    left_out=source.left_out if isinstance(source, Source) else (),
  )


def _in_memory(source: AnySource) -> Source | RecordSource:
  return source.gather() if isinstance(source, StreamSource) else source


# ---- rendering


def _some_per_class(
  source: Source | RecordSource, *, classes: int = 10, each: int = 10
) -> list[tuple[np.ndarray, str]]:
  """Returns (image, title) pairs of a contact sheet with one row for each of up to `classes` classes.

  The classes, and the examples of each class, are spread evenly. Blank images pad short rows. A grey image
  with the title "unreadable" replaces an image that cannot be read.
  """
  present = np.flatnonzero(np.bincount(source.labels, minlength=len(source.classes)))
  chosen = present[np.unique(np.linspace(0, len(present) - 1, min(classes, len(present))).astype(int))]
  found = []
  for label in chosen:
    members = np.flatnonzero(source.labels == label)
    for index in members[np.unique(np.linspace(0, len(members) - 1, min(each, len(members))).astype(int))]:
      try:
        found.append((source.read(int(index)), source.classes[label]))
      except (DataError, OSError):
        found.append((np.full((8, 8, 3), 200, np.uint8), "unreadable"))
    found += [(np.full((8, 8, 3), 255, np.uint8), "")] * (-len(found) % each)
  return found


def _augmented(
  source: Source | RecordSource,
  transforms: Sequence[Transform] | None,
  *,
  mean: Sequence[float],
  std: Sequence[float],
) -> Image.Image:
  """Draws up to eight readable examples, one per row, each with eight random results of the transforms."""
  if transforms is None:
    side = int(np.clip(min(source.read(i).shape[0] for i in _readable(source, 1)), 32, 224))
    transforms = [augment.flip_left_right, functools.partial(images.random_resized_crop, size=side)]
  chosen = _readable(source, 8)
  originals = [source.read(index) for index in chosen]
  variants = []
  for seed, index in enumerate(chosen):
    # In a source of one example, a batch of eight spans eight epochs, each with its own noise.
    alone = source.take(np.array([index]))
    batch = next(train_batches(alone, transforms, batch_size=8, seed=seed, num_threads=1))
    variants.append(list(batch["image"]))
  titles = [source.classes[source.labels[index]] for index in chosen]
  return augmented_preview(originals, variants, titles, mean=mean, std=std)


def _readable(source: Source | RecordSource, count: int) -> list[int]:
  """Returns the indices of up to `count` decodable examples, from as many classes as possible."""
  shuffled = np.random.default_rng(0).permutation(len(source))
  turns: Counter[int] = Counter()
  order = []
  for index in shuffled:
    turns[source.labels[index]] += 1
    order.append((turns[source.labels[index]], index))
  chosen: list[int] = []
  for _, index in sorted(order, key=lambda entry: entry[0]):
    if len(chosen) == count:
      break
    try:
      source.read(int(index))
    except (DataError, OSError):
      continue
    chosen.append(int(index))
  if not chosen:
    raise DataError(f"{source.name}: no image can be read")
  return chosen


def _table(reports: Mapping[str, Report]) -> list[str]:
  names = next(iter(reports.values())).classes
  same = all(report.classes == names for report in reports.values())
  header = ["class", *reports]
  rows = []
  if same:
    rows = [[f"{i} {name}", *[str(r.counts[i]) for r in reports.values()]] for i, name in enumerate(names)]
  rows.append(["all", *[str(sum(report.counts)) for report in reports.values()]])
  widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
  text = [
    row[0].ljust(widths[0])
    + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    for row in [header, *rows]
  ]
  note = (
    []
    if same
    else [
      "the splits have different classes: " + ", ".join(f"{s} {len(r.classes)}" for s, r in reports.items())
    ]
  )
  return [*note, *text]


def _left_out(files: Sequence[str]) -> list[str]:
  by_reason: dict[str, list[str]] = {}
  for file in files:
    why = why_left_out(file)
    by_reason.setdefault("because of their suffix" if why.startswith("with") else why, []).append(file)
  return [
    f"  files left out {why}: {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    for why, names in by_reason.items()
  ]


def _listed(what: str, lines: Sequence[str]) -> list[str]:
  more = [f"    ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
  return [f"  {what}: {len(lines)}", *[f"    {line}" for line in lines[:_SHOWN]], *more]
