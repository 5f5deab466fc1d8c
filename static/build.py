"""Fill ``static/vendor`` from the npm packages named in ``package.json``.

Run after ``npm ci --ignore-scripts``. Copies whole files; the icons become one sprite of the symbols in ``ICONS``, so that
a page inlines nothing and loads one small file. Nothing here is minified, bundled or fetched.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "node_modules"
VENDOR = ROOT / "static" / "vendor"

FILES = {
    "@tabler/core/dist/css/tabler.min.css": "tabler.min.css",
    "@tabler/icons/LICENSE": "icons.LICENSE",
    "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "inter-latin.woff2",
    "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "inter-latin-ext.woff2",
    "@fontsource-variable/inter/LICENSE": "inter.LICENSE",
    "htmx.org/dist/htmx.min.js": "htmx.min.js",
    "htmx.org/LICENSE": "htmx.LICENSE",
    "htmx-ext-sse/dist/sse.min.js": "sse.min.js",
    "uplot/dist/uPlot.iife.min.js": "uplot.min.js",
    "uplot/dist/uPlot.min.css": "uplot.min.css",
    "uplot/LICENSE": "uplot.LICENSE",
}
"""Source below node_modules -> name below static/vendor."""

ICONS = (
    "activity",
    "adjustments",
    "alert-circle",
    "alert-triangle",
    "arrow-down",
    "arrow-left",
    "arrow-right",
    "arrow-up",
    "arrows-exchange",
    "check",
    "chevron-down",
    "chevron-left",
    "chevron-right",
    "circle-check",
    "circle-dashed",
    "circle-half-2",
    "circle-off",
    "clock",
    "copy",
    "eye",
    "history",
    "home",
    "info-circle",
    "key",
    "loader",
    "lock",
    "logout",
    "menu-2",
    "moon",
    "pencil",
    "plus",
    "plug-connected-x",
    "refresh",
    "rocket",
    "route",
    "router",
    "search",
    "settings",
    "shield-check",
    "shield-lock",
    "sun",
    "trash",
    "upload",
    "user",
    "world",
    "x",
    "zzz",
)

_SVG = re.compile(r"<svg[^>]*>(?P<body>.*)</svg>", re.DOTALL)


def sprite(names: tuple[str, ...]) -> str:
    """Return one SVG with a symbol per icon; raises FileNotFoundError for an icon the package does not have."""
    symbols = []
    for name in names:
        source = (MODULES / "@tabler/icons/icons/outline" / f"{name}.svg").read_text(encoding="utf-8")
        match = _SVG.search(source)
        if match is None:
            raise ValueError(f"{name}.svg holds no svg element")
        body = re.sub(r"\s+", " ", match["body"]).strip()
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{body}</symbol>')
    return f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(symbols)}</svg>\n'


def build() -> None:
    """Replace ``static/vendor`` whole."""
    shutil.rmtree(VENDOR, ignore_errors=True)
    VENDOR.mkdir(parents=True)
    for source, target in FILES.items():
        octets = (MODULES / source).read_bytes()
        if target.endswith((".js", ".css")):
            # The maps are not copied; a manifest storage refuses a comment that points at a missing file.
            octets = re.sub(rb"(//|/\*)# sourceMappingURL=[^\n*]*(\*/)?", b"", octets)
        (VENDOR / target).write_bytes(octets)
    (VENDOR / "icons.svg").write_text(sprite(ICONS), encoding="utf-8")


if __name__ == "__main__":
    if not MODULES.is_dir():
        sys.exit("node_modules is missing: run `npm ci --ignore-scripts` first")
    build()
    print(f"static/vendor: {len(FILES) + 1} files")
