"""The site that :mod:`benchmarks.soak` uses for hours: groups, sessions, bindings, background and delayed messages."""
