"""Benchmarks of channelserver and its peers: ``python -m benchmarks``; see ``docs/performance.rst``."""
