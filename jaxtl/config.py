"""Configs: an import path and its signature.

A *spec* is a mapping with one special key. `fn` names a function of data whose keyword-only arguments are
fixed by the other keys; `make` names a function or class that makes an object from them. A leading dot means
inside jaxtl. The signature is the schema: there is no registry, and every key appears in a signature.
Everything is checked before anything runs, and every mistake is reported in one line that names the path, the
key and the nearest valid one.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import re
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from jaxtl.errors import ConfigError, printable

T = TypeVar("T")
KINDS = ("fn", "make")
_DEEPEST = 64  # levels of a config; deeper nesting is a mistake, and would exhaust Python's stack
_LONGEST_NAME = 100  # bytes: file systems allow 255, and some file names hold two names and a suffix
# Arguments that a component receives from the run if its signature has them and the spec leaves them open.
CONTEXT = ("blocks", "data_dir", "mesh", "model", "num_classes", "steps_per_epoch", "total_steps")
# A config that comes with a checkpoint is untrusted data: only public names of these packages are used.
# None of them reads a program, writes a file or starts a process.
TRUSTED = ("jaxtl.data", "jaxtl.losses", "jaxtl.models", "jaxtl.optim", "jaxtl.tasks", "optax")


class Verbatim(dict[str, Any]):
  """A mapping that is kept as written; the code that uses it checks its contents later."""


@dataclasses.dataclass(frozen=True)
class Spec:
  """A component given by its import path, with keywords that are checked against its signature.

  Attributes:
    path: as written in the config, for example `.losses.multiclass_smoothed_hinge`.
    kind: `fn` (realize gives the function with its keywords fixed) or `make` (realize calls it).
    keywords: what the config fixes; values may be specs, or sequences and mappings of specs.
    target: the function or class itself.
  """

  path: str
  kind: str
  keywords: Mapping[str, Any]
  target: Callable[..., Any] = dataclasses.field(compare=False, repr=False)

  def realize(self, **context: Any) -> Any:
    """Returns the function or object; `context` supplies the arguments that the config leaves open."""
    keywords = {key: _realize_value(value, context) for key, value in self.keywords.items()}
    for name, parameter in _fixable(self.target, self.kind).items():
      if name in context and name not in keywords:
        keywords[name] = context[name]
      if parameter.default is inspect.Parameter.empty and name not in keywords:
        raise ConfigError(f"{self.path} needs {name!r}, which is not known here; give it in the config")
    if self.kind == "fn":
      return functools.partial(self.target, **keywords) if keywords else self.target
    return self.target(**keywords)


def spec(value: Any, *, at: str = "config", trusted: Sequence[str] | None = None) -> Spec:
  """Checks the mapping `value` as a spec; `at` is the config path that error messages name.

  Raises:
    ConfigError: `value` is not a spec, its import path does not exist, a keyword is unknown, missing or of
      the wrong type, or (if `trusted` is given) the path is outside the trusted packages.
  """
  if isinstance(value, Spec):
    return value
  if not isinstance(value, Mapping):
    raise ConfigError(f"{at} is {value!r}; expected a component, dict(make=...) or dict(fn=...)")
  kinds = [kind for kind in KINDS if kind in value]
  if len(kinds) != 1:
    raise ConfigError(f"{at} needs one of 'make' and 'fn'; it has {sorted(value) or 'nothing'}")
  kind = kinds[0]
  path = value[kind]
  target = find(path, at=at, trusted=trusted)
  keywords = {key: item for key, item in value.items() if key != kind}
  return Spec(path, kind, _check_keywords(path, kind, target, keywords, at=at, trusted=trusted), target)


def names_component(value: Any) -> bool:
  """Returns whether a value of a config is a component: `dict(make=...)` or `dict(fn=...)`."""
  return isinstance(value, Mapping) and any(kind in value for kind in KINDS)


def find(path: Any, *, at: str = "config", trusted: Sequence[str] | None = None) -> Callable[..., Any]:
  """Returns the function or class at an import path; a leading dot means inside jaxtl."""
  if not isinstance(path, str) or "." not in path:
    raise ConfigError(f"{at} names {path!r}; expected an import path like '.losses.poly1' or 'optax.adamw'")
  full = f"jaxtl{path}" if path.startswith(".") else path
  module_path, _, name = full.rpartition(".")
  if trusted is not None and (module_path not in trusted or name.startswith("_")):
    raise ConfigError(
      f"{at} names {path!r}, which is not a public part of {', '.join(trusted)}; pass --trust"
    )
  try:
    module = _module(module_path, path, at)
  except ConfigError:
    _refuse_if_moved(full, path, at)
    raise
  target = getattr(module, name, None)
  if not callable(target) or inspect.ismodule(target):
    _refuse_if_moved(full, path, at)
    public = [x for x in getattr(module, "__all__", dir(module)) if not x.startswith("_")]
    raise ConfigError(f"{at} names {path!r}, but {module_path} has no {name!r}{nearest(name, public)}")
  return target


def _refuse_if_moved(full: str, path: str, at: str) -> None:
  """Raises ConfigError with the new path of a component that its former jaxtl package lists in `MOVED`."""
  top, _, rest = full.partition(".")
  package, _, old = rest.partition(".")
  if top != "jaxtl" or not old or importlib.util.find_spec(f"jaxtl.{package}") is None:
    return
  if new := getattr(importlib.import_module(f"jaxtl.{package}"), "MOVED", {}).get(old):
    raise ConfigError(f"{at} names {path!r}, which is {new!r} now; write that")


def _module(name: str, path: str, at: str) -> types.ModuleType:
  """Imports a module, and reports any failure of its code as a ConfigError.

  Raises:
    ConfigError: the module does not exist, or its import fails or exits.
  """
  try:
    return importlib.import_module(name)
  except (KeyboardInterrupt, ConfigError):
    raise
  except BaseException as error:
    missing = error.name if isinstance(error, ImportError) else None
    if missing is not None and f"{name}.".startswith(f"{missing}."):
      raise ConfigError(f"{at} names {path!r}, but there is no module {missing!r}") from error
    raise ConfigError(f"{at} names {path!r}, and its module cannot be imported: {summary(error)}") from error


def summary(error: BaseException) -> str:
  """Returns the type of an error and the first line of its message."""
  try:
    lines = str(error).splitlines()
  except Exception:  # __str__ of a user's own class may fail
    lines = []
  return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def parse(value: Any, cls: type[T], *, at: str = "config", trusted: Sequence[str] | None = None) -> T:
  """Makes the frozen dataclass `cls` from a mapping, checking every key and every type.

  Raises:
    ConfigError: a key is unknown or missing, or a value has the wrong type or is refused by the class.
  """
  if not isinstance(value, Mapping):
    raise ConfigError(f"{at} is {value!r}; expected a mapping with {', '.join(_field_names(cls))}")
  hints = typing.get_type_hints(cls)
  names = _field_names(cls)
  for key in value:
    if key not in names:
      raise ConfigError(f"{at} has no {key!r}{nearest(key, names)}")
  made = {}
  for field in dataclasses.fields(cls):  # type: ignore[arg-type]
    if field.name in value:
      made[field.name] = _convert(
        value[field.name], hints[field.name], at=f"{at}.{field.name}", trusted=trusted
      )
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
      raise ConfigError(f"{at} needs {field.name!r}")
  try:
    return cls(**made)
  except ConfigError as error:  # from __post_init__, which knows the field but not its path
    raise ConfigError(f"{at}.{error}") from error


def require(**conditions: tuple[Any, bool, str]) -> None:
  """Raises ConfigError for the first invalid field; each is (value, whether it is valid, the expectation)."""
  for name, (value, good, expected) in conditions.items():
    if not good:
      raise ConfigError(f"{name} is {value!r}; expected {expected}")


def merge(base: Any, difference: Any) -> Any:
  """Applies a nested difference to `base`: mappings are merged, all other values are replaced.

  A mapping that names another component replaces the whole, so that the keywords of an old loss never leak
  into a new one.
  """
  both = isinstance(base, Mapping) and isinstance(difference, Mapping)
  if not both or any(kind in difference and base.get(kind) != difference[kind] for kind in KINDS):
    return difference
  return {**base, **{key: merge(base.get(key), item) for key, item in difference.items()}}


def override(config: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
  """Applies command-line overrides such as `arms.sam.gradient.rho=0.1` to a copy of the config.

  Values are Python literals (`0.1`, `True`, `None`, `(0, 1)`, `"text"`); anything else is text.
  A number in the path indexes a list. If an assignment names another component, such as
  `base.model.make=...`, the keywords of the old one are removed, except those that are assigned as well.

  >>> override({"base": {"epochs": 2}}, ["base.epochs=3", "base.tune.peak_rates=(0.1, 1.0)"])
  {'base': {'epochs': 3, 'tune': {'peak_rates': [0.1, 1.0]}}}

  Raises:
    ConfigError: an assignment has no `=`, a path does not exist, or a config cannot hold a value.
  """
  result: Any = json.loads(json.dumps(config))
  split = [assignment.partition("=") for assignment in assignments]
  for path, sign, text in split:
    if not sign:
      raise ConfigError(f"override {path!r} has no '='; write path.to.key=value")
    node = result
    *parents, last = path.split(".")
    if len(parents) > _DEEPEST:
      raise ConfigError(f"override {path[:40]!r}...: expected a path of at most {_DEEPEST} keys")
    for key in parents:
      node = _child(node, key, path)
    value = _literal(text, path)
    if isinstance(node, list):
      _child(node, last, path)
      node[int(last)] = value
    elif isinstance(node, dict):
      if last in KINDS and node.get(last) != value:
        _clear(node, ".".join(parents), [path for path, _, _ in split])
      node[last] = value
    else:
      raise ConfigError(f"override {path!r}: {'.'.join(parents)} is {node!r}, which has no keys")
  return result


def _clear(node: dict[str, Any], at: str, assigned: Sequence[str]) -> None:
  """Removes the keys of the mapping at a path, except assigned ones and the parents of assigned ones."""
  for key in list(node):
    if not any(f"{path}.".startswith(f"{at}.{key}.") for path in assigned):
      del node[key]


def differences(old: Any, new: Any, *, at: str = "") -> list[str]:
  """Returns one line for each place where two plain configs differ: `path: old -> new`."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    keys = [*old, *(key for key in new if key not in old)]
    found = [
      differences(old.get(key, "(absent)"), new.get(key, "(absent)"), at=f"{at}.{key}" if at else key)
      for key in keys
    ]
    return [line for lines in found for line in lines]
  if _are_lists_of_mappings(old, new):
    found = [differences(a, b, at=f"{at}.{number}") for number, (a, b) in enumerate(zip(old, new))]
    return [line for lines in found for line in lines]
  return [] if old == new else [f"{at}: {old!r} -> {new!r}"]


def _are_lists_of_mappings(*values: Any) -> bool:
  """Returns whether the values are lists of equal length that hold only mappings, such as transforms."""
  if not all(isinstance(value, (list, tuple)) and len(value) == len(values[0]) for value in values):
    return False
  return all(isinstance(item, Mapping) for value in values for item in value)


def first_few(lines: Sequence[str], *, most: int = 3) -> str:
  """Joins the first lines into one, and adds how many more there are."""
  more = f" (and {len(lines) - most} more)" if len(lines) > most else ""
  return f"{'; '.join(lines[:most])}{more}"


def plain(value: Any) -> Any:
  """Converts a config, a spec or a parsed dataclass to JSON data: mappings, lists, numbers, text.

  Raises:
    ConfigError: the value holds something else, an integer of more than 63 bits, or is nested too deeply.
  """
  return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
  if depth > _DEEPEST:
    raise ConfigError(f"a config is nested at most {_DEEPEST} deep; this one is deeper, or contains itself")
  if hasattr(value, "to_dict") and not isinstance(value, type):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {str(key): _plain(item, depth + 1) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item, depth + 1) for item in value]
  if isinstance(value, Spec):
    return {value.kind: value.path, **_plain(value.keywords, depth)}
  if isinstance(value, Path):
    return str(value)
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    return {field.name: _plain(getattr(value, field.name), depth + 1) for field in fields}
  if type(value) is int:
    _check_size(value, "a config")
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ConfigError(f"a config holds numbers, text, lists and mappings; it has {value!r}")


def _check_size(value: int, at: str) -> None:
  """Refuses an integer that neither an array nor a float can hold; its digits may be too many to print."""
  if value.bit_length() > 63:
    raise ConfigError(
      f"{at} has an integer of {value.bit_length()} bits; expected at most 63 bits (write 1e30 for a number "
      "that large)"
    )


def _realize_value(value: Any, context: Mapping[str, Any]) -> Any:
  if isinstance(value, Spec):
    return value.realize(**context)
  if isinstance(value, Mapping):
    return {key: _realize_value(item, context) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(_realize_value(item, context) for item in value)
  return value


def _check_keywords(
  path: str,
  kind: str,
  target: Callable[..., Any],
  keywords: Mapping[str, Any],
  *,
  at: str,
  trusted: Sequence[str] | None,
) -> dict[str, Any]:
  allowed = _fixable(target, kind)
  if kind == "fn" and not _takes_data(target):
    raise ConfigError(f"{at}: {path} is made from keywords and takes no data; write make={path!r}")
  open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _signature(target).parameters.values())
  for key in keywords:
    if key not in allowed and not open_ended:
      raise ConfigError(f"{at}: {path} has no {key!r}{nearest(key, allowed)}")
  for name, parameter in allowed.items():
    if parameter.default is inspect.Parameter.empty and name not in keywords and name not in CONTEXT:
      raise ConfigError(f"{at}: {path} needs {name!r}")
  return {
    key: _convert(item, _hint(target, key), at=f"{at}.{key}", trusted=trusted)
    for key, item in keywords.items()
  }


def _fixable(target: Callable[..., Any], kind: str) -> dict[str, inspect.Parameter]:
  """Returns the parameters that a config may fix: keyword-only ones for `fn`, all named ones for `make`."""
  positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
  kinds = (inspect.Parameter.KEYWORD_ONLY, *(positional if kind == "make" else ()))
  return {name: p for name, p in _signature(target).parameters.items() if p.kind in kinds}


def _takes_data(target: Callable[..., Any]) -> bool:
  keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
  return any(p.kind not in keyword for p in _signature(target).parameters.values())


def _signature(target: Callable[..., Any]) -> inspect.Signature:
  try:
    return _known_signature(target)
  except (TypeError, ValueError):  # the target is written in C
    raise ConfigError(f"{target!r} does not say what arguments it takes; wrap it in a function") from None


@functools.cache
def _known_signature(target: Callable[..., Any]) -> inspect.Signature:
  return inspect.signature(target)


def _hint(target: Callable[..., Any], keyword: str) -> Any:
  """Returns the annotation of one keyword; others stay unresolved, as their types may be slow to import."""
  function: Any = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
  own = {key: item for key, item in getattr(function, "__annotations__", {}).items() if key == keyword}
  try:
    found = typing.get_type_hints(
      types.SimpleNamespace(__annotations__=own), globalns=getattr(function, "__globals__", {})
    )
  except (NameError, TypeError):  # annotations in other packages need not resolve
    return Any
  return found.get(keyword, Any)


def _convert(value: Any, hint: Any, *, at: str, trusted: Sequence[str] | None) -> Any:
  """Converts `value` to the type of an annotation, or raises one line that says what was expected."""
  if type(value) is int:
    _check_size(value, at)
  if hint is Verbatim:
    if not isinstance(value, Mapping):
      raise ConfigError(f"{at} is {value!r}; expected a mapping")
    return Verbatim(value)
  if names_component(value):
    return spec(value, at=at, trusted=trusted)
  origin, args = get_origin(hint), get_args(hint)
  if hint is Spec:
    return spec(value, at=at, trusted=trusted)
  if origin in (Union, types.UnionType):
    return _convert_union(value, args, at=at, trusted=trusted)
  if origin is Literal:
    if value not in args:
      raise ConfigError(f"{at} is {value!r}; expected one of {', '.join(map(repr, args))}")
    return value
  if dataclasses.is_dataclass(hint) and isinstance(hint, type):
    return value if isinstance(value, hint) else parse(value, hint, at=at, trusted=trusted)
  if origin in (tuple, list) or (isinstance(origin, type) and issubclass(origin, Sequence)):
    if not isinstance(value, (list, tuple)):
      raise ConfigError(f"{at} is {value!r}; expected a list")
    item = args[0] if args else Any
    fixed = origin is tuple and len(args) > 0 and args[-1] is not Ellipsis
    if fixed and len(value) != len(args):
      raise ConfigError(f"{at} is {value!r}; expected {len(args)} values")
    each = args if fixed else [item] * len(value)
    return tuple(_convert(x, h, at=f"{at}.{i}", trusted=trusted) for i, (x, h) in enumerate(zip(value, each)))
  if isinstance(origin, type) and issubclass(origin, Mapping):
    if not isinstance(value, Mapping):
      raise ConfigError(f"{at} is {value!r}; expected a mapping")
    return {k: _convert(x, args[1], at=f"{at}.{k}", trusted=trusted) for k, x in value.items()}
  if _is_component(hint) and not callable(value):
    raise ConfigError(f"{at} is {value!r}; expected a component, dict(make=...) or dict(fn=...)")
  if hint is Path and isinstance(value, str):
    return Path(value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if hint in (int, float, str, bool) and (type(value) is not hint):
    raise ConfigError(f"{at} is {value!r}; expected {_TYPE_NAMES[hint]}")
  if isinstance(value, (list, tuple)):
    return tuple(_convert(x, Any, at=f"{at}.{i}", trusted=trusted) for i, x in enumerate(value))
  if isinstance(value, Mapping):
    return {k: _convert(x, Any, at=f"{at}.{k}", trusted=trusted) for k, x in value.items()}
  return value


def _is_component(hint: Any) -> bool:
  """Returns whether an annotation asks for a component: Callable, Protocol or a named tuple of functions."""
  if get_origin(hint) is collections.abc.Callable:
    return True
  return isinstance(hint, type) and (getattr(hint, "_is_protocol", False) or hasattr(hint, "_fields"))


_TYPE_NAMES = {int: "an integer", float: "a number", str: "text", bool: "True or False"}


def _convert_union(value: Any, args: Sequence[Any], *, at: str, trusted: Sequence[str] | None) -> Any:
  if value is None and type(None) in args:
    return None
  problems = []
  for hint in args:
    if hint is type(None):
      continue
    try:
      return _convert(value, hint, at=at, trusted=trusted)
    except ConfigError as error:
      problems.append(error)
  raise problems[0]


def _field_names(cls: type) -> list[str]:
  return [field.name for field in dataclasses.fields(cls)]


def nearest(key: str, names: Iterable[str]) -> str:
  """Returns `; did you mean 'x'?`, or the list of valid names if none is similar."""
  names = list(names)
  near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
  if near:
    return f"; did you mean {near[0]!r}?"
  return f"; it has {', '.join(names[:12])}" if names else "; it takes none"


def check_names(names: Iterable[str], *, at: str, reserved: Iterable[str] = ()) -> None:
  """Checks names for files or folders: each must be a single part of a path on every system.

  Args:
    names: given by the user.
    at: the config path that error messages name.
    reserved: names that are taken, in lower case; also with suffixes, so that `log` reserves `log.txt`.

  Raises:
    ConfigError: a name cannot be used; the message shows the first one.
  """
  taken = set(reserved)
  for name in names:
    if problem := _problem_of(name, taken):
      shown = repr(name) if len(name) <= 40 else f"{name[:40]!r}..."
      raise ConfigError(f"{at} has the name {shown}, which {problem}; expected a name like 'sam_0.1'")


def _problem_of(name: str, reserved: set[str]) -> str:
  """Says what is wrong with the name of a file; returns an empty text if nothing is."""
  try:
    length = len(name.encode())
  except UnicodeEncodeError:
    return "is not valid text"
  if not name:
    return "is empty"
  if "/" in name or "\\" in name:
    return "has a slash"
  if name != printable(name):
    return "has characters that cannot be printed"
  if name.startswith("."):
    return "begins with a dot"
  if name != name.strip():
    return "begins or ends with a space"
  if length > _LONGEST_NAME:
    return f"has {length} bytes (at most {_LONGEST_NAME} fit)"
  lower = name.lower()
  if lower in reserved or (lower.split(".")[0] in reserved and "." in lower):
    return "jaxtl uses for files of its own"
  return ""


def _child(node: Any, key: str, path: str) -> Any:
  if path.startswith("arms.") and path.split(".")[1] == key and isinstance(node, dict) and key not in node:
    raise ConfigError(f"override {path!r}: no arm {key!r}{nearest(key, node)}")
  if isinstance(node, list):
    if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(node):
      raise ConfigError(f"override {path!r}: {key!r} is not an index into a list of {len(node)}")
    return node[int(key)]
  if not isinstance(node, dict):
    raise ConfigError(f"override {path!r}: nothing at {key!r}, its parent is {node!r}")
  return node.setdefault(key, {})


def _literal(text: str, path: str) -> Any:
  try:
    with warnings.catch_warnings(action="ignore"):  # for text that looks like a malformed number
      value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    return text
  try:
    return plain(value)
  except ConfigError as error:
    raise ConfigError(f"override {path!r}: {error}") from error


def call(value: Any) -> str:
  """Writes a component as a short call: `adam(peak_rate=0.001)`."""
  if not isinstance(value, Mapping):
    return f"{value:g}" if isinstance(value, float) else str(value)
  kind = next((kind for kind in KINDS if kind in value), None)
  parts = ", ".join(f"{key}={call(item)}" for key, item in value.items() if key != kind)
  if kind is None:
    return f"{{{parts}}}"
  name = str(value[kind]).rpartition(".")[2]
  return f"{name}({parts})" if parts else name


def calls(specs: Iterable[Any]) -> str:
  """Writes components, or their specs, as short calls separated by commas; "none" if there are none."""
  return ", ".join(map(call, plain(list(specs)))) or "none"
