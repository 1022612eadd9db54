"""One public HTTP format per file: what a request asks for, and what the router's own errors look like in it.

Decides how bodies are read; forwards nothing and chooses nothing. `reading` reads a request, `render` writes errors,
`routes` maps paths, `sse` finds the ends of events, `usage` reads what an answer reports.
"""

from __future__ import annotations

from warmroute.dialects.other import multipart_model
from warmroute.dialects.parsed import Parsed
from warmroute.dialects.reading import invoked_api, parse
from warmroute.dialects.render import render_error, render_stream_error

__all__ = ["Parsed", "invoked_api", "multipart_model", "parse", "render_error", "render_stream_error"]
