"""How Sphinx builds these pages: ``tox -e docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from channelserver._version import __version__  # noqa: E402

project = "channelserver"
author = "channelserver contributors"
copyright = f"2026, {author}"
version = release = __version__

extensions = ["options_table"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "python"

html_theme = "alabaster"
html_title = f"channelserver {release}"
html_show_sourcelink = False
html_theme_options = {
    "description": "HTTP, WebSockets, channels and worker threads for a Django site, in one process",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
