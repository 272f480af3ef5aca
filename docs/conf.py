"""How the site is built: `make docs`. Nothing in it is fetched from anywhere, neither now nor when it is read."""

import re
from importlib.metadata import version as installed

project = "embedsvc"
author = "the embedsvc authors"
copyright = "the embedsvc authors, Apache-2.0"
release = version = installed("embedsvc")

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build", "figures/**", "status.md"]

# Docstrings mark code with single backticks.
default_role = "code"
autodoc_typehints = "none"  # numpydoc names the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# Notebooks are shown as they are stored; the tests run them.
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_title = f"embedsvc {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#34507c", "color-brand-content": "#34507c"},
    "dark_css_variables": {"color-brand-primary": "#d3c164", "color-brand-content": "#d3c164"},
}
copybutton_exclude = ".linenos, .gp, .go"


def list_the_rest(app, docname, source):
    """Put every page that the index does not name where it says @topics@ or @notebooks@: a new page needs no entry."""
    if docname == "index":
        trees = "\n".join(re.findall(r"```\{toctree\}(.*?)```", source[0], re.DOTALL)).splitlines()
        rest = sorted(app.env.found_docs - {"index", *trees})
        notebooks = [name for name in rest if name.startswith("notebooks/")]
        topics = [name for name in rest if name not in notebooks]
        source[0] = source[0].replace("@topics@", "\n".join(topics)).replace("@notebooks@", "\n".join(notebooks))


def setup(app):
    app.connect("source-read", list_the_rest)
    app.connect("env-get-outdated", lambda *_: ["index"])  # read it again, since there may be new pages
