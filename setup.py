"""What ``setup.cfg`` cannot say: the example projects are installed inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: What running an example leaves behind; its ``data`` folder holds a database and a secret key.
LEFT_OVERS = {"__pycache__", "data"}


class BuildWithExamples(build_py):
    """Puts ``examples/`` of the checkout into the package as ``channelserver/examples/``, for ``--demo``."""

    def run(self) -> None:
        if not self.editable_mode:  # nothing that an earlier build left may reach the wheel
            shutil.rmtree(Path(self.build_lib, "channelserver"), ignore_errors=True)
        super().run()

    def build_package_data(self) -> None:
        super().build_package_data()
        for source in sorted(Path("examples").rglob("*")):
            if source.is_file() and not source.name.startswith(".") and LEFT_OVERS.isdisjoint(source.parts):
                target = Path(self.build_lib, "channelserver", source)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithExamples})
