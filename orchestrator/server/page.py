"""The description of the gateway as a page for people: no script, and nothing from elsewhere."""

import json
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
Json = dict[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em }
pre { overflow-x: auto; padding: 1rem; background: #8881 }
td { vertical-align: top; padding-right: 1rem }
summary { cursor: pointer; padding: 0.3rem 0 }
"""


def page(description: Json) -> str:
    """An OpenAPI description as HTML.

    >>> "<h1>A &amp; B" in page({"info": {"title": "A & B"}, "paths": {}, "components": {}})
    True
    """
    title = escape(description["info"]["title"])
    operations = [
        _operation(method.upper(), path, told)
        for path, methods in description["paths"].items()
        for method, told in methods.items()
    ]
    schemas = [
        _details(f"<code>{escape(name)}</code>", _source(schema), anchor=name)
        for name, schema in description["components"].get("schemas", {}).items()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f"<h2>Requests</h2>{''.join(operations)}<h2>Bodies</h2>{''.join(schemas)}</body></html>"
    )


def _operation(method: str, path: str, told: Json) -> str:
    rows = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(reply['description'])}</td></tr>"
        for status, reply in told["responses"].items()
    )
    head = f"<code>{escape(method)} {escape(path)}</code> {escape(told['summary'])}"
    return _details(head, f"{_body(told)}<table>{rows}</table>")


def _body(told: Json) -> str:
    if "requestBody" not in told:
        return ""
    schema = told["requestBody"]["content"]["application/json"]["schema"]
    name = schema.get("$ref", "").rpartition("/")[2]
    return f'<p>Body: <a href="#{escape(name)}">{escape(name)}</a></p>' if name else ""


def _details(head: str, inner: str, *, anchor: str = "") -> str:
    name = f' id="{escape(anchor)}"' if anchor else ""
    return f"<details{name}><summary>{head}</summary>{inner}</details>"


def _source(schema: Json) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2))}</pre>"
