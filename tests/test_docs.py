"""The documentation site: nothing public is missing, and what breaks a page is named. It needs no Sphinx."""

import argparse
import ast
import dataclasses
import shutil
from pathlib import Path

import pytest

import jaxtl
from docs.generate import api, commands, exit_codes, gallery, markdown, offline, settings, stage, tutorials
from docs.generate.docstrings import escaped, field_descriptions, prepared
from docs.generate.symbols import Symbol, public, symbols
from jaxtl.config import Spec

REPOSITORY = Path(__file__).resolve().parents[1]
ROOT = REPOSITORY / "jaxtl"
TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))


def written_all(path):
  """The strings of the list `__all__` in a file, by its source alone; None without one."""
  for node in ast.parse(path.read_text(encoding="utf-8")).body:
    if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]:
      return [n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant)]
  return None


@pytest.fixture(scope="module")
def pages():
  return api.pages()


def test_every_name_in_an_all_has_a_page(pages):
  described = {path.removeprefix("api/").removesuffix(".rst") for path in pages}
  described |= {name.rpartition("-")[0] for name in described if "-" in name}
  for file in ROOT.rglob("__init__.py"):
    package = ".".join(file.parent.relative_to(REPOSITORY).parts)
    names = [name for name in written_all(file) or [] if package != "jaxtl" or name == "__version__"]
    for name in names:
      assert f"{package}.{name}" in described


def test_the_functions_of_a_public_module_have_pages(pages):
  for name in ("config", "errors", "tree", "types"):
    for node in ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8")).body:
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
        # A class whose name in lower case is a function, such as `Spec`, has a suffix.
        assert {f"api/jaxtl.{name}.{node.name}{suffix}.rst" for suffix in ("", "-class")} & set(pages)


def test_no_two_pages_are_one_file_where_case_does_not_count(pages):
  assert len({path.lower() for path in pages}) == len(pages)
  assert "api/jaxtl.curvature.diagonal.rst" in pages
  assert "api/jaxtl.curvature.Diagonal-class.rst" in pages


def test_every_page_of_a_symbol_documents_it(pages):
  for symbol, name in api.page_names(public()).items():
    assert f":: {symbol.path}\n" in pages[f"api/{name}.rst"]


def test_the_kinds_of_symbols():
  kinds = {symbol.name: symbol.kind for symbol in [*symbols("jaxtl.weights"), *symbols("jaxtl.errors")]}
  assert kinds["interpolate"] == "function"
  assert kinds["filter_normalized"] == "function"  # compiled by JAX
  assert kinds["Coordinates"] == "class"
  assert kinds["ConfigError"] == "exception"
  assert kinds["POSITIONS"] == "data"


def test_a_public_function_without_a_docstring_is_named(monkeypatch):
  def bare(): ...

  bare.__module__ = "jaxtl.losses"
  monkeypatch.setattr(api, "modules", lambda: ["jaxtl.losses"])
  monkeypatch.setattr(api, "symbols", lambda module: [Symbol(module, "bare", bare)])
  with pytest.raises(ValueError, match=r"without a docstring: jaxtl\.losses\.bare$"):
    api.pages()


def test_the_comment_of_a_constant_is_its_description():
  row = next(symbol for symbol in symbols("jaxtl.types") if symbol.name == "Row")
  assert row.summary == "one line of `rows.jsonl`"


# Configuration


def test_every_field_of_every_settings_file_is_a_row():
  written = settings.pages()
  found = 0
  for file in ROOT.glob("studies/*/settings.py"):
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
      if isinstance(node, ast.ClassDef):
        fields = [each.target.id for each in node.body if isinstance(each, ast.AnnAssign)]
        page = written[f"reference/config/{node.name}.md"]
        assert all(f"| `{field}` | " in page for field in fields), node.name
        found += len(fields)
  assert found > 50
  assert {f"reference/config/{name}.md" for name in ("Experiment", "Data", "DiagnosisStudy")} <= set(written)


def test_a_study_of_another_folder_would_be_found():
  """Studies are found by their `rows`, also those that are not in a `study.py`."""
  assert ".studies.layers.diagnosis.rows" in dict(settings.study_classes())


@dataclasses.dataclass(frozen=True)
class Described:
  """A study.

  Attributes:
    first, second: both, over
      two lines.
    third: alone.
  """

  first: int = 1
  second: tuple[str, ...] | None = None
  third: Spec | None = None
  fourth: float = 0.5


def test_descriptions_are_read_from_the_attributes():
  assert field_descriptions(Described) == {
    "first": "both, over two lines.",
    "second": "both, over two lines.",
    "third": "alone.",
  }


def test_the_fields_of_a_base_are_described_by_the_base():
  described = field_descriptions(jaxtl.studies.pretrain.Pretrain)
  assert described["epochs"].startswith("passes over the training data")
  assert described["tune"].startswith("chooses")


def test_a_field_without_a_description_is_named(monkeypatch):
  monkeypatch.setattr(settings, "study_classes", lambda: [(".mine.rows", Described)])
  with pytest.raises(ValueError, match=r"without a line under Attributes: Described\.fourth$"):
    settings.pages()


def test_types_and_defaults_are_written_as_in_a_config():
  fields = {field.name: field for field in dataclasses.fields(Described)}
  assert settings.type_text(tuple[str, ...] | None) == "list of str or None"
  assert settings.type_text(Spec | None) == "component or None"
  assert settings.default_text(fields["second"]) == "`None`"
  assert settings.default_text(fields["fourth"]) == "`0.5`"
  gradient = next(f for f in dataclasses.fields(jaxtl.studies.pretrain.Pretrain) if f.name == "gradient")
  assert settings.default_text(gradient) == '`dict(make=".optim.plain")`'


# Docstrings


def test_marks_of_plain_text_are_escaped_and_code_is_not():
  assert escaped("|Hv - v| / |v| of `a*b|c_` and w_ * 2, a_b") == (
    r"\|Hv - v\| / \|v\| of `a*b|c_` and w\_ \* 2, a_b"
  )


def test_a_formula_stays_as_it_stands():
  text = ["Computes it.", "", "    x_k = |a| * 2", "    y = 1", "", "  With |x|.", "", "Args:", "  a: |x|."]
  assert prepared(text) == [
    *("Computes it.", "", "::", "", "    x_k = |a| * 2", "    y = 1", "", "  With |x|.", ""),
    *("Args:", r"  a: \|x\|."),
  ]


def test_an_example_stays_as_it_stands():
  text = ["It works:", "", ">>> f(*x)", "[|1|]", "", "After |x|."]
  assert prepared(text) == ["It works:", "", ">>> f(*x)", "[|1|]", "", r"After \|x\|."]


def test_a_list_gets_an_empty_line():
  assert prepared(["Either", "- one *a", "  more", "- two"]) == [
    "Either",
    "",
    r"- one \*a",
    "  more",
    "- two",
  ]


# Pages that people write


@pytest.mark.parametrize("page", stage.written_pages(REPOSITORY), ids=str)
def test_no_link_of_a_page_is_broken(page):
  assert markdown.broken(REPOSITORY / page) == []


def test_broken_links_are_named(tmp_path):
  (tmp_path / "other.md").write_text("# A heading, with `code`\n\n```\n# no heading\n```\n")
  page = tmp_path / "page.md"
  page.write_text(
    "[a](other.md) [b](other.md#a-heading-with-code) [c](https://example.org/x) [d](#here)\n\n# Here\n"
    "`[code](none.md)`\n[e](none.md)\n[f](other.md#no-heading)\n"
  )
  assert markdown.broken(page) == [
    f"{page}:5: none.md does not exist",
    f"{page}:6: other.md has no heading #no-heading",
  ]


def test_links_follow_a_page_to_its_place():
  places = {"README.md": "readme.md", "docs/a.md": "a.md", "docs/studies/b.md": "studies/b.md"}
  text = "[r](../../README.md#x) [a](../a.md) [c](../../configs/c.py) [w](https://example.org)\n```\n[a](../a.md)\n```\n"
  assert markdown.moved(text, "docs/studies/b.md", places) == (
    "[r](../readme.md#x) [a](../a.md) c [w](https://example.org)\n```\n[a](../a.md)\n```\n"
  )


def test_names_of_the_library_link_to_their_pages():
  names = {"jaxtl.optim.sam": "jaxtl.optim.sam"}
  title, unchanged = "# `jaxtl.optim.sam`\n", "not `optim.sam` or [`jaxtl.optim.sam`](x.md)."
  assert markdown.with_api_links(f"{title}`.optim.sam`, `jaxtl.optim.sam`, {unchanged}", names) == (
    f"{title}[`.optim.sam`](/api/jaxtl.optim.sam.rst), "
    f"[`jaxtl.optim.sam`](/api/jaxtl.optim.sam.rst), {unchanged}"
  )


def copied(tmp_path, *names):
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / name, tmp_path / name)
  return tmp_path


def test_the_exit_codes_are_those_of_the_errors(tmp_path):
  assert "| `jaxtl.errors.Restart` | 42 |" in exit_codes.pages(REPOSITORY)["reference/exit_codes.md"]
  folder = copied(tmp_path, "RELIABILITY.md")
  text = (folder / "RELIABILITY.md").read_text(encoding="utf-8")
  (folder / "RELIABILITY.md").write_text(text.replace("| 42 | preemption", "| 43 | preemption"))
  with pytest.raises(ValueError, match=r"lacks \[42\]"):
    exit_codes.pages(folder)


def test_the_gallery_shows_every_figure(tmp_path):
  text = gallery.pages(REPOSITORY)["gallery.md"]
  for file in (REPOSITORY / "docs" / "figures").iterdir():
    assert text.count(f"figures/{file.name}\n") == 1
  figures = tmp_path / "docs" / "figures"
  figures.mkdir(parents=True)
  (figures / "a.png").touch()
  (figures / "b.png").touch()
  (tmp_path / "docs" / "page.md").write_text("# Page\n\n![A](figures/a.png)\n")
  with pytest.raises(ValueError, match=r"that no page shows: b\.png"):
    gallery.pages(tmp_path)
  (tmp_path / "docs" / "page.md").write_text("# Page\n\n![A](figures/a.png)\n![](figures/b.png)\n")
  with pytest.raises(ValueError, match=r"without a description: .*page\.md:4"):
    gallery.pages(tmp_path)


def test_every_command_and_every_option_is_in_the_reference():
  text = commands.pages()["reference/commands.md"]
  for name in ("run", "eval", "import", "export", "check", "report", "doctor", "data check", "ckpt diff"):
    assert f"\n## jaxtl {name}\n" in text
  assert "| `--workdir DIR` |" in text


def test_an_option_without_help_is_named():
  parser = argparse.ArgumentParser(prog="jaxtl")
  parser.add_argument("--silent")
  with pytest.raises(ValueError, match="jaxtl new: no help for --silent SILENT"):
    commands._section("jaxtl new", parser)


# Tutorials


def test_a_tutorial_shows_what_it_prints_and_draws(tmp_path):
  page = tmp_path / "page.md"
  page.write_text(
    "# Page\n\n```python\nx = 2\nprint(x + 1)\n```\n\n<!-- check\nassert x == 2\nx = 5\n-->\n\n```python\n"
    "import matplotlib.pyplot as plt\nplt.plot([x, 0])\n```\nEnd.\n"
  )
  found = tutorials.run(page)
  assert "print(x + 1)\n```\n\n```{code-block} text\n:class: output\n\n3\n```\n" in found.text
  assert "check" not in found.text
  assert "![Figure of the block above](page_0.png)\nEnd." in found.text
  assert list(found.figures) == ["page_0.png"]
  assert found.figures["page_0.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("# Page\n\n```python\nx = 1\nx.y\n```\n", r"page\.md:5: AttributeError: "),
    ("# Page\n\n<!-- check\nassert False\n-->\n", r"page\.md:4: AssertionError: assert False$"),
    ("# Page\n\n```python\nx =\n```\n", r"page\.md:3: SyntaxError: "),
    ("# Page\n", r"page\.md has no block of Python"),
  ],
)
def test_a_block_that_fails_is_named_by_its_line(tmp_path, text, expected):
  page = tmp_path / "page.md"
  page.write_text(text)
  with pytest.raises(tutorials.TutorialError, match=expected):
    tutorials.run(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorials_run(page):
  assert "class: output" in tutorials.run(page).text


# The built site


def test_what_a_page_loads_from_another_host_is_named(tmp_path):
  (tmp_path / "index.html").write_text(
    '<a href="https://example.org/x">x</a><link rel="canonical" href="https://example.org/">'
    '<script src="static/a.js"></script><img src="a.png"><link rel="stylesheet" href="static/a.css">'
  )
  (tmp_path / "a.css").write_text("a { background: url(data:image/png;base64,AA//) }")
  assert list(offline.loads(tmp_path)) == []
  assert offline.main(str(tmp_path)) == 0
  (tmp_path / "b.html").write_text('<script src="//cdn.example.org/a.js"></script>')
  (tmp_path / "b.css").write_text('@import "https://fonts.example.org/a";')
  assert list(offline.loads(tmp_path)) == [
    f"{tmp_path / 'b.css'}: https://fonts.example.org/a",
    f"{tmp_path / 'b.html'}: //cdn.example.org/a.js",
  ]
  assert offline.main(str(tmp_path)) == 1


def test_a_folder_without_a_site_is_refused(tmp_path, capsys):
  assert offline.main(str(tmp_path)) == 1
  assert "has no index.html" in capsys.readouterr().err
