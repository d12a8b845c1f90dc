"""channelserver beside its peers, measured on the same work: ``python -m benchmarks``; see ``docs/performance.rst``."""
