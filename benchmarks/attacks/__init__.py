"""Attacks on the server by clients on loopback, and what they cost it: ``python -m benchmarks.attacks``."""
