"""The runner: config files, working folders, rows, and what is checked before a run."""
