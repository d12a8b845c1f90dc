"""Imported at the start of each process of a packed site: programs that it runs get the environment as it was."""

import os
import sys

home = os.environ.pop("PYTHONHOME", "")
libraries = os.environ.pop("PACKED_LD_LIBRARY_PATH", "")
if libraries:
    os.environ["LD_LIBRARY_PATH"] = libraries
else:
    os.environ.pop("LD_LIBRARY_PATH", None)
if home:
    sys.executable = os.path.join(home, "bin", "python")
    if os.path.isdir(os.path.join(home, "..", "site")):
        sys.path.insert(0, os.path.realpath(os.path.join(home, "..", "site")))
