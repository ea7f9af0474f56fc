"""What the texts of arguments are read as."""

import argparse
import os

import pytest

from jaxtl import cli
from jaxtl.cli.options import local_folder, local_path

BUCKET = "gs://bucket/x"
COMMANDS = [
  ("run", "c.py", "--workdir", BUCKET),
  ("run", "c.py", "--data-dir", BUCKET),
  ("run", BUCKET),
  ("check", "c.py", "--data-dir", BUCKET),
  ("eval", BUCKET, "--data", "digits"),
  ("eval", "runs/x", "--data", "digits", "--out", BUCKET),
  ("import", BUCKET, "--as", "resnet50", "--layout", "timm"),
  ("import", "w.npz", "--as", "resnet50", "--layout", "timm", "--out", BUCKET),
  ("rank", BUCKET, "--data", "digits"),
  ("rank", "runs/x", "--data", "digits", "--out", BUCKET),
  ("card", BUCKET, "--data", "digits"),
  ("export", "runs/x", BUCKET),
  ("report", BUCKET),
  ("report", "runs/x", "--out", BUCKET),
  ("data", "check", "digits", "--out", BUCKET),
  ("ckpt", "inspect", BUCKET),
  ("ckpt", "verify", BUCKET),
  ("ckpt", "diff", "runs/x", BUCKET),
  ("doctor", BUCKET),
  ("launch", "local", "c.py", "--write", BUCKET),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command[:2]))
def test_a_bucket_is_refused_in_one_line_by_every_command_that_takes_a_path(
  command, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as stop:
    cli.main(command)
  assert stop.value.code == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert f"expected a path on this machine, got '{BUCKET}'" in line
  assert "(for example /mnt/bucket/x)" in line
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize("text", ["s3://b/x", "http://host/x", "file:///x", "gs:/b/x", "hdfs://a:1/b"])
def test_whatever_the_scheme(text):
  for kind in (local_path, local_folder):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path on this machine"):
      kind(text)


@pytest.mark.parametrize("text", ["x", "/a/b:c/d", "a:b", "./gs:/x", "tfds:mnist", "C:/x"])
def test_what_is_a_path_stays_one(text):
  assert str(local_path(text)) == os.path.normpath(text)
  assert local_folder(text) == text
