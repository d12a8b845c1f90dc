"""Measurements, each a program: ``python -m benchmarks.idle_sockets``."""
