"""Checkpoints on disk: writing, verifying, restoring and describing them."""
