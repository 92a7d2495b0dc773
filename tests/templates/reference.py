"""Renders templates with Jinja2 as transformers sets it up, for the comparison in tests/it/templates.rs.

Reads one JSON object a line, {"source", "context"}, and answers each with {"text"} or {"refused"}.
"""

import json
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes


class Generation(jinja2.ext.Extension):
    """{% generation %} marks what the assistant says; rendering only needs its text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda pattern: "2026"
    return made


def main():
    made = environment()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"text": made.from_string(request["source"]).render(**request["context"])}
        except Exception as error:  # Whatever it is, the template gives no prompt.
            answer = {"refused": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
