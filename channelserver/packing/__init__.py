"""``channelserver pack``: a Django project, its environment and the interpreter as one executable file.

Runs in the main thread of a command, nothing of it in a server; only :mod:`~channelserver.packing.launch` runs on the
machine where the file is. It takes everything and analyses nothing: no import graph, no knowledge about packages. May
import what projects import, and Django.
"""
