"""Recorded: renders the rows of a run once more, by its manifest alone (driver, laptop).

Results hold no prompts. The manifest tells the templates, the models and the input as they were
when the run was planned, so the input is not listed and surveyed again. Without a model's files, a
guess stands in for the model's tokenizer, as in a plan.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass

import pyarrow as pa

from gemma_batch.committing.manifest import Manifest
from gemma_batch.errors import OutputError
from gemma_batch.planning.columns import first_of_each, wanted_columns
from gemma_batch.planning.model_look import model_of
from gemma_batch.planning.plan import DEFAULT_MODEL_LEN
from gemma_batch.planning.preview import route_renderer, tokenizer_for
from gemma_batch.planning.route_plan import RoutePlan
from gemma_batch.planning.schemas import LOOKED_AT, is_guessed, union, with_declared
from gemma_batch.planning.unreadable import Unreadable, readable
from gemma_batch.prompts.render import Renderer
from gemma_batch.prompts.template import Template
from gemma_batch.prompts.tokens import TextTokenizer
from gemma_batch.spec import JobSpec, Prompt
from gemma_batch.storage.formats import TYPED


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the rows of one route are rendered. `exact` is False for a guessed tokenizer."""

    renderer: Renderer
    tokenizer: TextTokenizer
    exact: bool


class RecordedJob:
    """The job of a run as its manifest records it. Threads may share it.

    Raises `SpecError` when this version of the software does not take the recorded spec.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.spec = JobSpec.from_dict(manifest.spec)
        fields = manifest.fingerprint.fields
        given = {name: fields[f"prompt.{name}"] for name in self._known("prompt.")}
        self.prompt = Prompt(**given) if given else self.spec.prompt
        self._id_column: str | None = fields.get("input.id")
        self._lock = threading.Lock()
        self._renderings: dict[str, Rendering] = {}

    def _known(self, prefix: str) -> list[str]:
        names = (name.removeprefix(prefix) for name in self._manifest.fingerprint.fields)
        return [name for name in names if name in Prompt.model_fields]

    @functools.cached_property
    def columns(self) -> list[str]:
        """The columns that a prompt is made of, and those of the id and of kept columns.

        Reads the schemas of the input's files when a template prints whole rows. Raises
        `InputError`, `StorageError`.
        """
        schema = pa.schema([])
        texts = (self.prompt.system, self.prompt.user)
        if any(text is not None and Template(text).whole for text in texts):
            schema = self._schema()
        wanted = wanted_columns(self.spec, self.prompt, self._id_column, schema)
        return [*(name for name in schema.names if name in wanted),
                *(name for name in wanted if name not in schema.names)]  # fmt: skip

    def _schema(self) -> pa.Schema:
        """The columns of the input, found as in the survey of a plan."""
        shards = self._manifest.shards
        full = tuple(shard for shard in shards if shard.size) or shards
        looked = full if full[0].format in TYPED else full[:LOOKED_AT]
        _, schemas = readable(looked, Unreadable(len(shards)))
        guessed = is_guessed(full[0])
        schema = union([first_of_each(one) for one in schemas], guessed=guessed)
        return with_declared(schema, self.spec.input.schema) if guessed else schema

    def rendering(self, route: str) -> Rendering:
        """How the rows of the route of this name are rendered.

        Raises `ModelError` for a model that is not found, and `OutputError` for an unknown route.
        """
        with self._lock:
            if route not in self._renderings:
                self._renderings[route] = self._rendering(route)
            return self._renderings[route]

    def _rendering(self, name: str) -> Rendering:
        route = next((one for one in self.spec.effective_routes if one.name == name), None)
        if route is None:
            raise OutputError(f"the job of this output has no route {name!r}")
        resources = self.spec.resources_of(route)
        card, files, _ = model_of(route, need_files=False, notes=[])
        plan = RoutePlan(
            route=route,
            resources=resources,
            card=card,
            files=files,
            max_model_len=resources.max_model_len or min(card.context, DEFAULT_MODEL_LEN),
        )
        tokenizer = tokenizer_for(plan)
        renderer = route_renderer(self.spec, self.prompt, plan, tokenizer)
        return Rendering(renderer, tokenizer, files is not None)
