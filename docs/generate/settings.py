"""The configuration reference: every field of every study, read from the dataclasses that check a config."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from docs.generate.docstrings import field_descriptions, summary
from docs.generate.markdown import in_cell
from jaxtl import config as config_lib
from jaxtl import studies
from jaxtl.config import Spec
from jaxtl.runner.config_file import StudyConfig


def pages() -> dict[str, str]:
  """Returns path -> text: an overview, and one page for each dataclass.

  Raises:
    ValueError: a field has no description.
  """
  every = reachable([StudyConfig, *(cls for _, cls in study_classes())])
  if missing := [f"{cls.__name__}.{name}" for cls in every for name in undescribed(cls)]:
    raise ValueError(f"fields without a line under Attributes: {', '.join(missing)}")
  written = {f"reference/config/{cls.__name__}.md": _page(cls) for cls in every}
  return {"reference/config/index.md": _index(every), **written}


def study_classes() -> list[tuple[str, type]]:
  """Returns (path of `rows` in a config, the dataclass that it takes) of every study of the library."""
  found = []
  for module in pkgutil.walk_packages(studies.__path__, "jaxtl.studies."):
    rows = getattr(importlib.import_module(module.name), "rows", None)
    if inspect.isgeneratorfunction(rows):
      cls = typing.get_type_hints(rows).get("study")
      path = f"{module.name.removeprefix('jaxtl')}.rows"
      # The package exports what its `study.py` defines; a config names the shorter path.
      if dataclasses.is_dataclass(cls) and cls not in [known for _, known in found]:
        found.append((path, cls))
  return typing.cast(list[tuple[str, type]], found)


def reachable(roots: list[type]) -> list[type]:
  """Returns the dataclasses of the roots' fields, of their fields, and so on, each once."""
  found: list[type] = []
  waiting = list(roots)
  while waiting:
    cls = waiting.pop(0)
    if cls not in found and cls is not Spec:
      found.append(cls)
      hints = typing.get_type_hints(cls)
      waiting += [
        part for field in dataclasses.fields(cls) for part in _parts(hints[field.name]) if _is_settings(part)
      ]
  return found


def undescribed(cls: type) -> list[str]:
  """Returns the names of fields that no Attributes section describes."""
  described = field_descriptions(cls)
  return [field.name for field in dataclasses.fields(cls) if not described.get(field.name)]


def _parts(hint: Any) -> Iterator[Any]:
  yield hint
  for argument in get_args(hint):
    yield from _parts(argument)


def _is_settings(hint: Any) -> bool:
  return inspect.isclass(hint) and dataclasses.is_dataclass(hint)


def type_text(hint: Any) -> str:
  """Returns a type as a reader of a config sees it, in Markdown, with links to the pages of dataclasses."""
  if hint is Spec:
    return "component"
  if hint is type(None) or hint is None:
    return "None"
  if _is_settings(hint):
    return f"[{hint.__name__}]({hint.__name__}.md)"
  origin, arguments = get_origin(hint), get_args(hint)
  if origin in (Union, types.UnionType):
    return " or ".join(type_text(argument) for argument in arguments)
  if origin is typing.Literal:
    return " or ".join(f"`{argument!r}`" for argument in arguments)
  if origin is tuple:
    inside = [type_text(argument) for argument in arguments if argument is not Ellipsis]
    return f"list of {inside[0]}" if Ellipsis in arguments else f"({', '.join(inside)})"
  if origin is not None and issubclass(origin, Mapping):
    return f"dict of name to {type_text(arguments[1])}"
  if inspect.isclass(hint) and issubclass(hint, Mapping):
    return "dict"
  return str(getattr(hint, "__name__", hint)).replace("typing.", "")


def default_text(field: dataclasses.Field[Any]) -> str:
  """Returns a default as a config would write it; "required" if there is none."""
  if field.default_factory is not dataclasses.MISSING:
    value = field.default_factory()
    if _is_settings(type(value)):
      return f"[{type(value).__name__}]({type(value).__name__}.md)'s"
  elif field.default is not dataclasses.MISSING:
    value = field.default
  else:
    return "required"
  return f"`{_written(config_lib.plain(value))}`"


def _written(value: Any) -> str:
  """Returns plain data as a config writes it: `dict(make=".optim.plain")`."""
  if isinstance(value, dict):
    return f"dict({', '.join(f'{key}={_written(item)}' for key, item in value.items())})"
  if isinstance(value, list):
    return f"[{', '.join(map(_written, value))}]"
  return f'"{value}"' if isinstance(value, str) else repr(value)


def _page(cls: type) -> str:
  described, hints = field_descriptions(cls), typing.get_type_hints(cls)
  rows = [
    f"| `{field.name}` | {type_text(hints[field.name])} | {default_text(field)} | "
    f"{in_cell(described[field.name])} |"
    for field in dataclasses.fields(cls)
  ]
  table = "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])
  return f"# {cls.__name__}\n\n{_above_sections(cls)}\n\n{table}\n"


def _above_sections(cls: type) -> str:
  """Returns a docstring up to its first section."""
  return re.split(r"^(?:Attributes|Args|Raises):$", inspect.cleandoc(cls.__doc__ or ""), flags=re.M)[
    0
  ].strip()


INTRODUCTION = """# Configuration

A config is a Python file with a function `get_config()`, which returns a `ConfigDict` with the fields
of [StudyConfig](StudyConfig.md). Its `study` names the generator of rows, and `base` and `arms` hold
the fields of the dataclass that this generator takes.

A *component* is a dict that names a function or a class by its import path. `dict(fn=...)` gives the
function with its keywords fixed, and `dict(make=...)` gives what the function or class returns. A
leading dot means inside jaxtl: `dict(make=".optim.sgd", peak_rate=0.1)` calls
[jaxtl.optim.sgd](/api/jaxtl.optim.sgd.rst). The keywords are those on the component's
[API page](/api/index.rst).

`jaxtl check CONFIG` names an unknown field, a missing one and a value of the wrong type before
anything runs.
"""


def _index(every: list[type]) -> str:
  rows = [
    f"| `{path}` | [{cls.__name__}]({cls.__name__}.md) | {in_cell(summary(cls))} |"
    for path, cls in study_classes()
  ]
  table = "\n".join(["| study | fields of `base` | |", "|---|---|---|", *rows])
  parts = "\n".join(f"- [{cls.__name__}]({cls.__name__}.md): {summary(cls)}" for cls in every)
  names = "\n".join(cls.__name__ for cls in every)
  contents = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
  return "\n\n".join([INTRODUCTION, table, "## All dataclasses", parts, contents, ""])
