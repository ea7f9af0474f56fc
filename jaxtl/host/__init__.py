"""What one machine and its processes need: signals, locks, logs, progress and files."""
