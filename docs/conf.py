from __future__ import annotations

import importlib.metadata

project = "natten-core and dinat-zoo"
author = "The natten-core and dinat-zoo authors"
copyright = f"2026, {author}"
release = importlib.metadata.version("natten-core")

default_role = "code"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The documentation is built without a network, so there is no inventory to resolve other projects' names with.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|timm|numpy|PIL|collections|typing|pathlib)(\..*)?"),
    ("py:.*", "Tensor|Module|Path|Callable|Sequence|Any|optional|PerAxis|Causal"),
    ("py:class", r"nn\.Module|Size|Position|Reach|Figure|(Mask2|One)FormerForUniversalSegmentation|dict\[str"),
]
