"""Sphinx: the site that `nox -s docs` builds. Warnings are errors there, and nothing is fetched from anywhere."""

import html
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import napoleon
from sphinx.ext.napoleon.docstring import GoogleDocstring

sys.path.insert(0, str(Path(__file__).parent.parent))

import twusage
import twusage.errors
import twusage.monitor
import twusage.testing

project = "twusage"
version = release = twusage.__version__
copyright = "the twusage maintainers"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design", "sphinx_llm.txt"]
exclude_patterns = ["_build", "_templates"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

# Without their inventories, which would have to be fetched. `dt` is the code's name of datetime.
nitpick_ignore_regex = [
    (r"py:.*", r"(aiohttp|asyncio|collections|concurrent|contextlib|datetime|dt|enum|os|ssl|types|typing)\..*"),
]
# Not public, and named in annotations only.
nitpick_ignore = [
    ("py:class", "twusage.limiter._LocalSlot"),
    ("py:class", "matplotlib.axes.Axes"),
    ("py:class", "Axes"),
    ("py:class", "prometheus_client.metrics_core.Metric"),
    ("py:class", "prometheus_client.registry.Collector"),
    ("py:class", "twusage.integrations.fleet_queue.FleetSlot"),
    ("py:class", "twusage.integrations.redis._RedisSlot"),
    ("py:class", "RetryCallState"),  # tenacity's
    ("py:class", "redis.asyncio.client.Redis"),
    ("py:class", "redis.asyncio.cluster.RedisCluster"),
    ("py:class", "twusage.monitor.guard._Ledger"),
    ("py:class", "twusage.testing.api.SimulatedExchange"),
    ("py:class", "twusage.testing.faults.Breakage"),
]

html_theme = "furo"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_title = f"twusage {version}"
html_copy_source = False
html_show_sphinx = False
html_favicon = "_static/logo-light.svg"
html_theme_options = {
    "light_logo": "logo-light.svg",
    "dark_logo": "logo-dark.svg",
    "sidebar_hide_name": False,
    "top_of_page_buttons": [],
}
copybutton_prompt_text = "$ "
llms_txt_full_build = True
llms_txt_suffix_mode = "replace"
llms_txt_description = "asyncio client, command, dashboard and test fake for GET /2/usage/tweets of the X/Twitter API"

# The module imports it for annotations only, and autodoc resolves these.
vars(twusage.errors)["RateLimit"] = twusage.RateLimit

_PAGES = {name: module.__name__ for module in (twusage.testing, twusage.monitor, twusage) for name in module.__all__}


def _by_public_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Any) -> Any:
    """Resolve an annotation, which names the private module, to the public name."""
    name = node.get("reftarget", "").rpartition(".")[2]
    target = f"{_PAGES.get(name)}.{name}"
    if node.get("refdomain") != "py" or name not in _PAGES or node["reftarget"] == target:
        return None
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)


def _public_bases(*arguments: Any) -> None:
    """Replace a private base by its own base. Its attributes are listed in the subclasses."""
    bases: list[type] = arguments[-1]
    bases[:] = [base.__bases__[0] if base.__name__.startswith("_") else base for base in bases]


def _google_style(app: Sphinx, what: Any, name: str, item: object, options: Any, lines: list[str]) -> None:
    """Apply Napoleon, except to attributes. It would read the text before the first colon as a type."""
    if what not in {"attribute", "property", "data"}:
        config: Any = napoleon.Config()  # its defaults
        lines[:] = GoogleDocstring(lines, config, app, what, name, item, options).lines()


def _signature(
    app: Sphinx, what: str, name: str, item: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Omit the signatures of values and protocols. Users do not call them."""
    del app, what, name, options
    if isinstance(item, type) and (item.__module__ == "twusage.models" or getattr(item, "_is_protocol", False)):
        return "", None
    return signature and signature.replace("= NOTHING", "= {}"), returns  # attrs' name for a default factory


def _accessible(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Fix what axe reports in the HTML of Sphinx and furo. These are scrollable regions, signatures and captions."""
    del app, page, template, doctree
    body = context.get("body", "").replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    body = body.replace("<pre>", '<pre tabindex="0">')  # wide tables and code blocks scroll
    context["body"] = _SIGNATURE.sub(lambda match: _as_spans(match[1]), body)
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


_SIGNATURE = re.compile(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", re.DOTALL)


def _as_spans(lines: str) -> str:
    """Turn signatures of several lines into spans.

    Sphinx writes a ``<dl>`` without terms; site.css breaks the lines.
    """
    return lines.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


def _plain(app: Sphinx, doctree: Any, page: str) -> None:
    """Keep the text of nodes that sphinx-llm's Markdown pages would drop."""
    del page
    if app.builder.name != "html":
        dropped = {"abbreviation", "PassthroughTextElement"}
        for node in list(doctree.findall(lambda node: type(node).__name__ in dropped)):
            node.replace_self(node.children)


def _without_entities(app: Sphinx, failed: Exception | None) -> None:
    """Write Markdown into llms.txt: sphinx-llm escapes every backtick and asterisk."""
    path = Path(app.outdir, "llms.txt")
    if failed is None and path.is_file():
        path.write_text(html.unescape(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("html-page-context", _accessible, priority=900)  # after furo wraps the tables
    app.connect("doctree-resolved", _plain)
    app.connect("build-finished", _without_entities, priority=900)  # after sphinx-llm
    app.connect("missing-reference", _by_public_name)
    app.connect("autodoc-process-bases", _public_bases)
    app.connect("autodoc-process-docstring", _google_style)
    app.connect("autodoc-process-signature", _signature)
