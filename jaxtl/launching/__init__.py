"""Launching: one run described once, rendered for whatever starts it elsewhere.

A `Job` is plain data. A target turns it into a `LaunchPlan` of files and commands, and does nothing else:
what is printed is what is submitted. `submission` alone touches the disk and starts programs. The package
needs the standard library alone.

Every target keeps the same promise about exit codes: 42 starts the run again, at most `retries` times, and
nothing else does, save that Kubernetes also starts again what was killed from outside (137, 143).
"""

from jaxtl.launching.job import Job
from jaxtl.launching.plan import File, LaunchPlan
from jaxtl.launching.submission import submit, write
from jaxtl.launching.targets import TARGETS, render

__all__ = ["TARGETS", "File", "Job", "LaunchPlan", "render", "submit", "write"]
