"""Maps the classes of a data set to those of a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtl.data.class_names import class_difference, class_key
from jaxtl.errors import DataError, InputError, few


@dataclasses.dataclass(frozen=True)
class LabelMap:
  """The classes of a data set among a model's.

  Attributes:
    classes: the data's class names, in the order of its labels.
    columns: for each of them, the index of the model's class.
    num_model_classes: number of classes of the model.
    restricted: whether the model chooses among the data's classes only.
  """

  classes: tuple[str, ...]
  columns: tuple[int, ...]
  num_model_classes: int
  restricted: bool


def match_classes(
  model: Sequence[str],
  data: Sequence[str],
  *,
  at: str,
  subset: bool = False,
  class_map: Mapping[str, str] | None = None,
) -> LabelMap:
  """Finds the data's classes among the model's; names are compared by `class_key`.

  With `subset` or `class_map` the scores are restricted to the data's classes, as is usual for ImageNet-A and
  ImageNet-R (Hendrycks et al., "The Many Faces of Robustness", 2020, arXiv 2006.16241).

  Args:
    model, data: class names in the order of their labels.
    at: the name of the data in errors.
    subset: the data may have the model's classes in another order, or only some of them.
    class_map: data class -> model class; data classes that it omits are matched by their own name.

  Raises:
    DataError: the lists differ and neither option is given, a class is unknown on either side, or two of the
      data's classes map to the same class of the model.
  """
  if not subset and class_map is None:
    difference = class_difference(model, data)
    if difference:
      raise DataError(f"{at} has other classes than the model: {difference}; {_advice(model, data)}")
    return LabelMap(tuple(data), tuple(range(len(data))), len(model), restricted=False)
  numbers = {class_key(name): number for number, name in enumerate(model)}
  if len(numbers) < len(model):
    raise DataError("two of the model's classes begin with the same WordNet id, so names cannot be mapped")
  keys = _mapped(class_map or {}, model, data, at=at)
  unknown = [name for name, key in zip(data, keys) if key not in numbers]
  if unknown:
    raise DataError(
      f"{at}: the model has no class {few(unknown)}; say which of its classes they are with --class-map FILE"
    )
  columns = tuple(numbers[key] for key in keys)
  first: dict[int, str] = {}
  for name, column in zip(data, columns):
    if column in first:
      raise DataError(f"{at}: {first[column]!r} and {name!r} are both the model's class {model[column]!r}")
    first[column] = name
  return LabelMap(tuple(data), columns, len(model), restricted=True)


def read_class_map(file: Path) -> dict[str, str]:
  """Reads the JSON object {data class: model class} from a file.

  Raises:
    InputError: the file does not exist, or holds something else.
  """
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
  except OSError as error:
    raise InputError(f"{file} cannot be read: {error.strerror}") from error
  except (RecursionError, ValueError) as error:
    raise InputError(f"{file} is not valid JSON: {error}") from error
  if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
    raise InputError(f"{file}: expected a JSON object of texts, data class to model class")
  return found


def _advice(model: Sequence[str], data: Sequence[str]) -> str:
  if {class_key(name) for name in data} <= {class_key(name) for name in model}:
    return "write --subset to score among the data's classes only, matched by name"
  return "give --class-map FILE, a JSON object of data class to model class"


def _mapped(class_map: Mapping[str, str], model: Sequence[str], data: Sequence[str], *, at: str) -> list[str]:
  """Returns for each of the data's classes the key of the model's class to which it is mapped."""
  by_key = {class_key(name): class_key(value) for name, value in class_map.items()}
  for side, names, known in (("the data", class_map, data), ("the model", class_map.values(), model)):
    keys = {class_key(name) for name in known}
    unknown = [name for name in names if class_key(name) not in keys]
    if unknown:
      raise DataError(f"{at}: the class map names {few(unknown)}, which {side} does not have")
  keys_of_data = [class_key(name) for name in data]
  return [by_key.get(key, key) for key in keys_of_data]
