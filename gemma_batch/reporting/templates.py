"""Templates: the Jinja templates of the pages in this folder; they escape every text."""

from __future__ import annotations

import functools
from pathlib import Path

import jinja2


@functools.cache
def template(name: str) -> jinja2.Template:
    """The template in the file `name` of this folder."""
    env = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    env.trim_blocks = env.lstrip_blocks = True
    return env.get_template(name)
