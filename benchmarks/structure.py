"""How the library is built, in numbers: files and lines per package, imports between them, depth, and reach.

`python benchmarks/structure.py [FOLDER]` reads the sources below FOLDER (default: those of this repository),
so that two versions can be compared. `--trace` also makes the report of a small working folder and counts the
functions that receive the folder's path or its rows.
"""

from __future__ import annotations

import argparse
import ast
import collections
import graphlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any


def modules(root: Path) -> dict[str, ast.Module]:
  """Returns dotted name -> parsed source for every module of the library."""
  found = {}
  for path in sorted((root / "jaxtl").rglob("*.py")):
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
  return found


def imported(tree: ast.Module, known: set[str]) -> set[str]:
  """Returns the modules of the library that a module imports."""
  names: set[str] = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxtl":
      below = {f"{node.module}.{alias.name}" for alias in node.names} & known
      names |= below or {node.module}
    elif isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names} & known
  return names & known


def package(name: str) -> str:
  """Returns the package of a module, such as `jaxtl.train` or `jaxtl.studies.transfer`."""
  parts = name.split(".")
  return ".".join(parts[: 3 if parts[1:2] == ["studies"] and len(parts) > 3 else 2])


def depth(parsed: dict[str, ast.Module], inside: set[str]) -> int:
  """Returns the length of the longest chain of imports among modules; imports in functions do not count."""
  below: dict[str, set[str]] = {}
  for name in inside:
    top = [node for node in parsed[name].body if isinstance(node, (ast.Import, ast.ImportFrom))]
    below[name] = (imported(ast.Module(top, []), set(parsed)) - {name}) & inside
  levels: dict[str, int] = {}
  for name in graphlib.TopologicalSorter(below).static_order():
    levels[name] = 1 + max((levels[other] for other in below[name]), default=0)
  return max(levels.values(), default=0)


def files_that_name(root: Path, study: str) -> list[str]:
  """Returns the library files that have a study's name as a word, other than the study's own files."""
  word = re.compile(rf"(?<![\w.]){study}(?:_\w+)?(?!\w)")
  own = re.compile(rf"studies/{study}(?:_\w+)?(?:/|\.py)")
  return [
    str(path.relative_to(root))
    for path in sorted((root / "jaxtl").rglob("*.py"))
    if not own.search(path.as_posix()) and word.search(_without_comments(path))
  ]


def _without_comments(path: Path) -> str:
  """Returns the names and short strings of a source, without prose."""
  tree = ast.parse(path.read_text(encoding="utf-8"))
  names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
  names += [
    alias.name
    for node in ast.walk(tree)
    if isinstance(node, (ast.Import, ast.ImportFrom))
    for alias in node.names
  ]
  names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
  names += [
    node.value
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value.strip()
  ]
  return "\n".join(part for name in names for part in re.split(r"[./]", name))


def receivers(root: Path) -> list[str]:
  """Yields the library's functions that receive the working folder or its rows while its report is made."""
  sys.path.insert(0, str(root))
  from tests.report import example_study

  try:
    from jaxtl.report import write as report
  except ImportError:  # a tree from before the report had a package
    from jaxtl.studies import report
  with tempfile.TemporaryDirectory() as folder:
    workdir = example_study.write(Path(folder) / "run", seeds=(0,), arms=("cross_entropy", "sam"))
    seen: set[str] = set()

    def watch(frame: Any, event: str, _: Any) -> None:
      code = frame.f_code
      if event == "call" and f"{os.sep}jaxtl{os.sep}" in code.co_filename:
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        for name in names:
          value = frame.f_locals.get(name)
          if isinstance(value, report.Results) or (isinstance(value, Path) and value == workdir):
            seen.add(f"{Path(code.co_filename).relative_to(root)}: {code.co_name}")

    sys.setprofile(watch)
    report.write(workdir, workdir / "report")
    sys.setprofile(None)
  return sorted(seen)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
  parser.add_argument("--trace", action="store_true")
  options = parser.parse_args()
  root = options.root.resolve()
  parsed = modules(root)
  graph = {name: imported(tree, set(parsed)) - {name} for name, tree in parsed.items()}
  files: collections.Counter[str] = collections.Counter()
  lines: collections.Counter[str] = collections.Counter()
  for name in parsed:
    path = root / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    files[package(name)] += 1
    lines[package(name)] += len(path.read_text(encoding="utf-8").splitlines())
  total = sum(lines.values())
  print(f"{'package':28} files  lines  share")
  for name in sorted(files):
    print(f"{name:28} {files[name]:5} {lines[name]:6} {lines[name] / total:6.1%}")
  print(f"{'all':28} {sum(files.values()):5} {total:6}")
  between = sum(package(a) != package(b) for a, others in graph.items() for b in others)
  inside = {name for name in parsed if name.startswith("jaxtl.studies.")}
  print(f"imports between packages: {between}")
  print(f"imports among studies: {sum(len(graph[name] & inside) for name in inside)}")
  print(f"levels within studies: {depth(parsed, inside)}")
  for study in ("pretrain", "transfer", "flatness", "patching", "layers"):
    print(f"library files outside its own that name {study}: {len(files_that_name(root, study))}")
  if options.trace:
    found = receivers(root)
    places = {one.partition(":")[0] for one in found}
    print(f"functions that receive the folder or its rows in a report: {len(found)} in {len(places)} files")


if __name__ == "__main__":
  main()
