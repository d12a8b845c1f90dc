"""Puts a process together: the command line, the project's set-up, the log, the sibling processes' ``main``.

Runs in the main thread before the reactor starts. May import every other room; no other room imports this one.
"""
