"""How the documentation is built: `make docs` runs this once for docs/en and once for docs/zh."""

project = "vglm_train"
copyright = "the authors of vglm_train"
language = "en"  # make docs passes zh_CN for the Chinese pages

extensions = ["myst_parser", "docs.search"]  # make docs runs where docs is a folder
myst_heading_anchors = 3  # so that [text](page.md#heading) is a link that is checked
nitpicky = True

html_theme = "furo"
html_title = "vglm_train"
html_copy_source = False
html_show_sphinx = False
templates_path = ["templates"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "language.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
