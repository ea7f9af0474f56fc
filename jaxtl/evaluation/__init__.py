"""Evaluates a checkpoint on a data set, and writes the page of results."""
