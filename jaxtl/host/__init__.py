"""Support for one machine and its processes: signals, locks, logs, progress and files."""
