"""Sphinx: pages of every module, from its docstrings; a reader fetches nothing from elsewhere."""

import importlib.metadata

project = "mbgan"
release = importlib.metadata.version("mbgan")
extensions = [
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
apidoc_modules = [{"path": "../mbgan", "destination": "api", "separate_modules": True}]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
suppress_warnings = ["ref.python"]  # types in quotes, of names that two modules have
napoleon_use_ivar = True  # attributes of a dataclass are told once
html_theme = "alabaster"
html_theme_options = {"description": "GANs for scarce histology images", "fixed_sidebar": True}
html_show_copyright = False
