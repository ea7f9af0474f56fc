"""The command line: parsers, options, and one module for each group of commands."""

from jaxtl.cli.main import main

__all__ = ["main"]
