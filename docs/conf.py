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

extensions = ["options_table", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["_build"]
nitpicky = True
highlight_language = "none"

# The copy button leaves out prompts and what a program prints.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"channelserver {release}"
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "../examples/chat/rooms/static/rooms/favicon.svg"
_FONTS = {
    "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "font-stack--monospace": "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace",
}
html_theme_options = {
    "light_css_variables": {**_FONTS, "color-brand-primary": "#276b62", "color-brand-content": "#276b62"},
    "dark_css_variables": {"color-brand-primary": "#5fb8a9", "color-brand-content": "#5fb8a9"},
}

# -- the reference: docstrings, of modules some of which need Django to be set up --

import pkgutil  # noqa: E402

import django  # noqa: E402
from django.conf import settings  # noqa: E402

settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "channelserver.delay",
        "channelserver.jobs",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"

nitpick_ignore_regex = [
    # Other packages' names: their documentation is not at hand when these pages are built.
    ("py:class", r"(collections\.abc|contextlib|django|django_tasks|threading|twisted|unittest)\..*"),
    ("py:class", r"(datetime|re)\..*|SessionBase"),
    # Type variables and aliases, which signatures show.
    ("py:class", r"P|(.*\.)?[FR]|Patterns|Consumer"),
    ("py:exc", "ImproperlyConfigured|InvalidTask|SessionInterrupted|TaskResultDoesNotExist|ValidationError"),
    # Inner parts, which docstrings name for those who read the code.
    ("py:class", r"channelserver\.(.*\._\w+|bridge\.Bridge|layers\.local\.LocalLayer|workers\.wrapped\.ReusesMatch)"),
    ("py:mod", r"channelserver\.(delay\.text|jobs|layers\.queues|layers\.receive)"),
]
# An exception that is also an attribute of a class has two targets.
suppress_warnings = ["ref.python"]


def _resolve(app, env, node, content):
    """Find what a docstring names by a path or a module's import that is not where it is defined."""
    target, module = node.get("reftarget", ""), node.get("py:module")
    if node.get("refdomain") != "py":
        return None
    try:
        named = pkgutil.resolve_name(target if target.startswith("channelserver.") else f"{module}.{target}")
        place = f"{named.__module__}.{named.__qualname__}"
    except (AttributeError, ImportError, ValueError):
        return None
    domain = env.get_domain("py")
    if place == target or place not in domain.objects:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], place, node, content)


def _level_of_captions(app, pagename, templatename, context, doctree):
    """Say how deep the captions of the navigation are, which Sphinx makes headings."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def _public_bases(app, name, obj, options, bases):
    """Do not show private classes as bases."""
    bases[:] = [base for base in bases if not getattr(base, "__name__", "").startswith("_")] or [object]


def setup(app):
    """Called by Sphinx."""
    app.connect("missing-reference", _resolve)
    app.connect("autodoc-process-bases", _public_bases)
    app.connect("html-page-context", _level_of_captions, priority=900)
