"""`.ci/deny_words`: new lines of jaxtl/ whose sentences have a word of the deny list are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "deny_words"


def output_of(folder, *command):
  """The exit code and the standard output of a command, away from any repository that runs this test."""
  env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
  env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
  done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
  assert done.stderr == ""
  return done.returncode, done.stdout


def git(folder, *arguments):
  code, _ = output_of(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments)
  assert code == 0


def write(folder, path, *lines):
  (folder / path).parent.mkdir(parents=True, exist_ok=True)
  (folder / path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
  git(folder, "add", "--all")


def check(folder, *arguments):
  return output_of(folder, sys.executable, str(SCRIPT), *arguments)


@pytest.fixture
def repository(tmp_path):
  git(tmp_path, "init", "--quiet")
  write(tmp_path, "jaxtl/old.py", '"""Begins anew."""', "x = 1")
  git(tmp_path, "commit", "--quiet", "--message=old")
  return tmp_path


def test_comments_docstrings_and_strings_are_searched(repository):
  write(
    repository,
    "jaxtl/deep/new.py",
    "def f(a):",
    '  """Draws a head.',
    "",
    "  It is drawn Anew.",
    '  """',
    "  # What the caller was told.",
    '  raise ValueError(f"{a!r} is no number")',
  )
  code, text = check(repository)
  assert code == 1
  assert text.splitlines() == [
    "jaxtl/deep/new.py:4: 'Anew': write again, from scratch, over",
    "jaxtl/deep/new.py:6: 'told': write given, reported",
    "jaxtl/deep/new.py:7: 'is no': write is not a",
  ]


@pytest.mark.parametrize(
  "line",
  [
    '"""Starts over."""',
    "# There is no step, and there are no others; this one is no longer here, and is no larger than that.",
    "# It is None, and is none of these.",
    "anew, whom.told = start_anew(anew=True), 1",
    "# `anew` and start_anew, state.told and whom_it_concerns: names.",
    'kind = dict(beside="beside")["beside"]',
    'raise ValueError(f"{anew} and {told!r}")',
  ],
)
def test_good_sentences_and_names_of_code_pass(repository, line):
  write(repository, "jaxtl/new.py", line)
  assert check(repository) == (0, "")


def test_only_new_lines_of_the_library_count(repository):
  write(repository, "jaxtl/old.py", '"""Begins anew."""', "x = 2", "# Restarts.")
  write(repository, "jaxtl/page.md", "Begins anew.")
  write(repository, "tests/test_new.py", "# Begins anew.")
  assert check(repository) == (0, "")
  write(repository, "jaxtl/old.py", '"""Begins anew."""', "x = 2", "# Restarts anew.")
  assert check(repository) == (1, "jaxtl/old.py:3: 'anew': write again, from scratch, over\n")


def test_nothing_new_passes(repository):
  assert check(repository) == (0, "")


def test_a_range_of_commits_is_searched(repository):
  write(repository, "jaxtl/new.py", "# Asks whom it likes.")
  git(repository, "commit", "--quiet", "--message=new")
  write(repository, "jaxtl/new.py", "# Later lines are no part of the range.", "# Asks whom it likes.")
  git(repository, "commit", "--quiet", "--message=newer")
  found = (1, "jaxtl/new.py:1: 'whom': write the person or part by name\n")
  assert check(repository, "HEAD~2..HEAD~1") == found
  assert check(repository, "HEAD~1..")[1].startswith("jaxtl/new.py:1: 'are no'")
  git(repository, "rm", "--quiet", "jaxtl/new.py")
  assert check(repository, "HEAD") == (0, "")


def test_a_range_that_does_not_exist_is_one_line(repository):
  done = subprocess.run(
    [sys.executable, str(SCRIPT), "nowhere..HEAD"], cwd=repository, capture_output=True, text=True
  )
  assert done.returncode == 1
  assert done.stderr.startswith("deny_words: fatal: ")
