"""Loads Twisted as a later version may be: the private names which we use are called otherwise."""

import importlib.abc
import importlib.machinery
import sys

NAMES = ("_tempDataLen", "_poller", "_doReadOrWrite", "_fromListeningDescriptor")


class Renaming(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        source = self.get_data(self.path).decode()
        for name in NAMES:
            source = source.replace(name, name + "Renamed")
        return compile(source, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if not name.startswith("twisted.internet."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin.endswith(".py"):
            spec.loader = Renaming(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
