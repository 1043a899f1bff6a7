"""The manifest: the identity of a run, put once, create-only, before any GPU works (driver).

The manifest holds the fingerprint, the inputs as they were and the key of the list of units. The
fingerprint lists by name everything that can change a result. A later start makes a fingerprint
too and compares it with the manifest. When the two differ, the start is refused, and the refusal
names the differences.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gemma_batch.committing.increments import Increment, load_increments
from gemma_batch.engines.base import answer_args
from gemma_batch.errors import MismatchError, OutputError
from gemma_batch.spec import Resources
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.unit import Shard, Unit, read_units, shard_from, write_units

KEY = "_run/manifest.json"
# Layout 2 numbers staged copies by themselves (see `units.unit.FIRST_STAGED`). Software that knows
# only layout 1 would look for them at the wrong place. Outputs without such copies stay layout 1.
# Layout 3 has units of several shards, of which older software would read the first shard only.
VERSION, VERSION_STAGED, VERSION_BUNDLES = 1, 2, 3
# Fields that older versions wrote and that never changed a result.
FORGOTTEN = ("prompt_logprobs",)
# A field that older versions did not write: what it was is not known.
MODEL_WEIGHTS = "model weights"
SHOWN, SHORT = 4, 120  # files that a refusal names, characters of a value
ENGINE = Resources.model_fields["engine"].default
RUN_ID = 16  # hex digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Everything that can change a result.

    `fields` holds values that a person set or the plan derived; `inputs`: url -> [bytes, etag].
    """

    fields: dict[str, Any]
    inputs: dict[str, list[Any]]

    @property
    def digest(self) -> str:
        """SHA-256 over fields and inputs, in hex."""
        text = json.dumps([self.fields, self.inputs], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(
        self, other: Fingerprint, unknown: Collection[str] = (), *, grows: bool = False
    ) -> list[str]:
        """One phrase per difference between this one (committed) and `other` (asked for).

        `unknown` are names of fields that `other` does not know; they are not compared. With
        `grows`, input files that only `other` has are no difference.
        """
        phrases = []
        for name in sorted((self.fields.keys() | other.fields.keys()) - set(unknown)):
            if name not in self.fields and name.endswith(MODEL_WEIGHTS):
                continue
            old, new = self.fields.get(name), other.fields.get(name)
            if old != new:
                phrases.append("{} was {}, now {}".format(name, *_shown(old, new)))
        gone = sorted(self.inputs.keys() - other.inputs.keys())
        new_ones = [] if grows else sorted(other.inputs.keys() - self.inputs.keys())
        both = self.inputs.keys() & other.inputs.keys()
        changed = sorted(url for url in both if self.inputs[url] != other.inputs[url])
        for what, urls in (("missing", gone), ("new", new_ones), ("changed", changed)):
            if urls:
                more = f" and {len(urls) - SHOWN} more" if len(urls) > SHOWN else ""
                named = ", ".join(repr(url) for url in urls[:SHOWN])
                phrases.append(f"{len(urls)} input file(s) {what}: {named}{more}")
        return phrases


def _shown(*values: Any) -> list[str]:
    """Two values for people; of long ones, the part in which they begin to differ."""
    texts = [repr(value) for value in values]
    pairs = enumerate(zip(*texts, strict=False))
    same = next((place for place, (old, new) in pairs if old != new), min(map(len, texts)))
    start = max(0, same - 40) if max(map(len, texts)) > SHORT else 0
    return [
        ("..." if start else "") + text[start : start + SHORT - 3] + "..."
        if len(text) - start > SHORT
        else ("..." if start else "") + text[start:]
        for text in texts
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A run as it was planned. `rows` counts input rows, `spec` is the JobSpec as plain data.

    `shards` are the input files. `staged` are copies of input rows in another order, which the
    run itself wrote. Shards, rows and units are those of the first run and of all `increments` of
    a growing input together; `facts` and `created` are those of the first run. `run` is the id of
    the run, which its parts name. `names_parts` is False for the manifest of an older version,
    whose parts may name none. `kept` are the types of kept columns (see `kept_types.py`), "" in
    the manifest of an older version.
    """

    name: str
    run: str
    names_parts: bool
    created: str
    fingerprint: Fingerprint
    shards: tuple[Shard, ...]
    units_key: str
    rows: int
    spec: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    staged: tuple[Shard, ...] = ()
    kept: str = ""
    increments: tuple[Increment, ...] = ()

    @property
    def sorted_routes(self) -> set[str]:
        """The routes whose rows the engines get in the order of their prefixes."""
        every = (self.facts, *(one.facts for one in self.increments))
        return {name for facts in every for name in facts.get("sort", ())}

    @property
    def by_number(self) -> dict[int, Shard]:
        """Every shard that a unit may name, by its number."""
        return {shard.number: shard for shard in (*self.shards, *self.staged)}

    def with_shards(self, shards: Iterable[Shard]) -> Manifest:
        """The manifest with these shards in the place of those with the same numbers."""
        new = {shard.number: shard for shard in shards}
        if not new:
            return self
        settled = tuple(new.get(shard.number, shard) for shard in self.shards)
        asked = replace(self.fingerprint, inputs=_inputs(settled))
        return replace(self, shards=settled, fingerprint=asked)

    def with_increments(self, increments: Sequence[Increment]) -> Manifest:
        """The manifest with increments that follow those it has."""
        if not increments:
            return self
        shards = (*self.shards, *(shard for one in increments for shard in one.shards))
        return replace(
            self,
            shards=shards,
            staged=(*self.staged, *(shard for one in increments for shard in one.staged)),
            rows=self.rows + sum(one.rows for one in increments),
            fingerprint=replace(self.fingerprint, inputs=_inputs(shards)),
            increments=(*self.increments, *increments),
        )

    def units(self, store: Store) -> list[Unit]:
        """The planned units of generation 0. Raises `OutputError` when their list is missing."""
        later = [unit for one in self.increments for unit in one.units]
        try:
            return read_units(store.read(self.units_key)) + later
        except FileNotFoundError:
            raise OutputError(
                f"{self.units_key!r} is missing from the output although its manifest names it: "
                "restore it or use a new output path"
            ) from None


def now() -> str:
    """The present date and time in UTC, as ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load_manifest(store: Store) -> Manifest | None:
    """The manifest of an output, with its increments; None when there is none.

    Raises `OutputError` when the manifest is not JSON or has another version of the layout, and
    the errors of `load_increments`.
    """
    try:
        data = json.loads(store.read(KEY))
    except FileNotFoundError:
        return None
    except ValueError as err:
        raise OutputError(f"{KEY!r} in the output is not valid JSON: {err}") from None
    if data.get("version") not in {VERSION, VERSION_STAGED, VERSION_BUNDLES}:
        raise OutputError(
            f"the output was written by another version of the layout ({data.get('version')!r}, "
            f"this software reads {VERSION} to {VERSION_BUNDLES})"
        )
    for name in FORGOTTEN:
        data["fields"].pop(f"sampling.{name}", None)
        data["spec"].get("sampling", {}).pop(name, None)
    for name, value in _engine_args(data["spec"]):
        data["fields"].setdefault(name, value)
    shards = tuple(map(shard_from, data["shards"]))
    staged = tuple(map(shard_from, data.get("staged", ())))
    # Parts that this version adds to an older output name the fingerprint.
    run = data.get("run") or data["fingerprint"][:RUN_ID]
    first = Manifest(
        name=data["name"],
        run=run,
        names_parts="run" in data,
        created=data["created"],
        fingerprint=Fingerprint(fields=data["fields"], inputs=_inputs(shards)),
        shards=shards,
        staged=staged,
        units_key=data["units"],
        rows=data["rows"],
        spec=data["spec"],
        facts=data.get("facts", {}),
        kept=data.get("kept", ""),
    )
    return first.with_increments(load_increments(store, run))


def _engine_args(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of engine arguments that can change an answer, by the spec of a manifest.

    Older versions held some of these arguments for neutral (`load_format: dummy`) and left them
    out of the fields. The spec has them.
    """
    shared = spec.get("resources", {})
    for route in spec.get("routes") or [{}]:
        merged = {**shared, **route.get("resources", {})}
        where = f"routes.{route['name']}." if route else ""
        engine, args = merged.get("engine", ENGINE), merged.get("engine_args", {})
        for name, value in answer_args(engine, args).items():
            yield f"{where}resources.engine_args.{name}", value


def _inputs(shards: Sequence[Shard]) -> dict[str, list[Any]]:
    return {shard.url: [shard.size, shard.etag] for shard in shards}


def fingerprint(fields: dict[str, Any], shards: Sequence[Shard]) -> Fingerprint:
    """The fingerprint of a plan; `fields` are stored as JSON gives them back."""
    return Fingerprint(fields=json.loads(json.dumps(fields, default=str)), inputs=_inputs(shards))


def check_same(
    manifest: Manifest,
    asked: Fingerprint,
    output: str,
    unknown: Collection[str] = (),
    *,
    grows: bool = False,
) -> None:
    """Raise `MismatchError`, with every difference, when the output holds another run.

    Fields with a name in `unknown` are not compared. With `grows`, the input may have new files.
    """
    differences = manifest.fingerprint.differences(asked, unknown, grows=grows)
    if differences:
        only_new = not manifest.fingerprint.differences(asked, unknown, grows=True)
        grow = " (`input.grow: true`, or --grow, answers the new files too)" if only_new else ""
        raise MismatchError(
            f"{output!r} already holds a run of another configuration or input: "
            + "; ".join(differences)
            + f". Undo the change, or name a new output.path{grow}"
        )


def _units_digest(fingerprint: Fingerprint, staged: Sequence[Shard]) -> str:
    # Each start writes staged shards anew. Their units fit only the files of the same start.
    if not staged:
        return fingerprint.digest[:16]
    text = json.dumps([fingerprint.digest, [shard.plain() for shard in staged]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(record: dict[str, Any]) -> str:
    # With `indent`, json needs many times as long. So a shard, of which there may be very many, is
    # one line.
    text = json.dumps({**record, "shards": [], "staged": []}, indent=1, default=str)
    for name in ("shards", "staged"):
        if lines := ",\n  ".join(map(json.dumps, record[name])):
            text = text.replace(f'\n "{name}": []', f'\n "{name}": [\n  {lines}\n ]')
    return text


def create_manifest(
    store: Store,
    *,
    name: str,
    fingerprint: Fingerprint,
    shards: Sequence[Shard],
    units: Sequence[Unit],
    spec: dict[str, Any],
    facts: dict[str, Any],
    staged: Sequence[Shard] = (),
    kept: str = "",
) -> Manifest:
    """Put the list of units and the manifest, create-only, and return the manifest.

    When another driver has already put a manifest, the existing manifest is returned. Raises
    `OutputError` when the manifest cannot be read back.
    """
    units_key = f"_run/units-{_units_digest(fingerprint, staged)}.parquet"
    store.create(units_key, write_units(units))
    # An earlier start may have put this list of units and died. Then the existing list counts.
    settled = read_units(store.read(units_key))
    version = VERSION_STAGED if staged else VERSION
    if any(unit.members for unit in settled):
        version = VERSION_BUNDLES
    record = {
        "version": version,
        "name": name,
        # Not the fingerprint: two runs of equal fingerprints may cut their input differently.
        "run": uuid.uuid4().hex[:RUN_ID],
        "created": now(),
        "fingerprint": fingerprint.digest,
        "fields": fingerprint.fields,
        "rows": sum(unit.expected for unit in settled),
        "units": units_key,
        "facts": facts,
        "kept": kept,
        "spec": spec,
        "shards": [shard.plain() for shard in shards],
        "staged": [shard.plain() for shard in staged],
    }
    store.create(KEY, _text(record).encode())
    manifest = load_manifest(store)
    if manifest is None:
        raise OutputError(f"{KEY!r} was written but cannot be read back: check the storage")
    return manifest
