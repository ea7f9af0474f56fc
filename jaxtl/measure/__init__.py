"""Measurements of trained networks: curvature, loss landscapes, layers and probes."""
