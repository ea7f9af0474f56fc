"""Transforms of images and batches."""
