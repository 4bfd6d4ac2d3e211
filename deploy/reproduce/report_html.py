"""report.html: report.md as one page that needs nothing else, its plots inside, readable in light and dark."""

import re
from collections.abc import Mapping

from markdown_it import MarkdownIt

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>factory reproduce</title>
<style>
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;display:block;overflow-x:auto;margin:1rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8884;font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}
th{font-weight:600;vertical-align:bottom}
pre{padding:.8rem;overflow-x:auto;white-space:pre-wrap;background:#8881;border-radius:.4rem}
figure{margin:1.5rem 0}
svg{max-width:100%;height:auto}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}}
</style></head><body>
BODY
</body></html>
"""
_IMAGE = re.compile(r'<p><img src="plots/([a-z_]+)\.svg" alt="([^"]*)" ?/?></p>')


def page(text: str, plots: Mapping[str, str]) -> str:
    """The page.

    Args:
        text: report.md; raw HTML in it is shown, not obeyed.
        plots: <svg> elements by the name that the text's images have; an image without one is left out.
    """
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = _IMAGE.sub(lambda found: _figure(plots.get(found[1], ""), found[2]), body)
    return PAGE.replace("BODY", body, 1)


def _figure(svg: str, caption: str) -> str:
    return f'<figure aria-label="{caption}">{svg}</figure>' if svg else ""
