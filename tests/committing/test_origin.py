"""No mixing: an output with parts of another run is refused, and the refusal names the part."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import Ledger, save_receipts
from gemma_batch.committing.manifest import KEY, Manifest, create_manifest, fingerprint
from gemma_batch.committing.origin import check_parts, check_receipts, find_run
from gemma_batch.errors import MismatchError, OutputError
from gemma_batch.reporting.status import current_report
from gemma_batch.rows import Outcome
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared
from gemma_batch.units.unit import Shard
from tests.committing.test_commit import OUTCOMES, answer, job
from tests.committing.test_commit import prepared as prepared
from tests.committing.test_commit import store as store


def begun(store: Store, prepared: Prepared) -> Manifest:
    """An output whose run has two units; the second is one row further down the same shard."""
    more = replace(prepared.unit, first_row=3)
    shard = Shard(number=0, url="in.jsonl", size=9, etag="e", format="jsonl")
    manifest = create_manifest(
        store,
        name="n",
        fingerprint=fingerprint({"model": "m"}, [shard]),
        shards=[shard],
        units=[prepared.unit, more],
        spec={},
        facts={},
    )
    assert find_run(store) == manifest
    return manifest


def commit(store: Store, prepared: Prepared, run: str | None) -> str:
    commit_unit(store, replace(job(), run=run), prepared, OUTCOMES, {})
    return prepared.unit.path


def check(store: Store, manifest: Manifest) -> None:
    check_parts(store, manifest, manifest.units(store), Ledger(store).committed())


def test_data_without_a_manifest_is_refused(store: Store, prepared: Prepared) -> None:
    """Its `_run/` was deleted: whose answers they are is not known. The way out is said."""
    assert find_run(store) is None
    store.put("results/_SUCCESS", b"")
    assert find_run(store) is None
    path = commit(store, prepared, "a")
    with pytest.raises(OutputError, match=f"'{path}'.*Restore _run/"):
        find_run(store)


def test_the_parts_of_a_run_are_accepted(store: Store, prepared: Prepared) -> None:
    """With and without copies of their receipts, and retried."""
    manifest = begun(store, prepared)
    commit(store, prepared, manifest.run)
    check(store, manifest)
    again = replace(prepared.unit, generation=1, mask=b"\x02", expected=1)
    retried = replace(prepared, unit=again, numbers=[1], ids=["r1"], keep=prepared.keep.slice(1, 1))
    commit(store, retried, manifest.run)
    check(store, manifest)
    save_receipts(store, list(Ledger(store).receipts().values()))
    check(store, manifest)
    assert current_report(store.url).failed == 1


def test_a_part_of_another_run_is_refused(store: Store, prepared: Prepared) -> None:
    """Also of a run of the same spec: its units may be cut elsewhere. `report` refuses it too."""
    manifest = begun(store, prepared)
    other = open_store(f"{store.url}-other")
    theirs = begun(other, prepared)
    assert theirs.fingerprint == manifest.fingerprint
    path = commit(other, prepared, theirs.run)
    store.put(path, other.read(path))
    with pytest.raises(MismatchError, match=f"'{path}' is a part of another run"):
        check(store, manifest)
    with pytest.raises(MismatchError, match=path):
        current_report(store.url)


def test_a_copied_receipt_does_not_hide_it(store: Store, prepared: Prepared) -> None:
    """A part that another worker found and took for its own is in the copies as it is."""
    manifest = begun(store, prepared)
    path = commit(store, prepared, "another")
    save_receipts(store, list(Ledger(store).receipts().values()))
    with pytest.raises(MismatchError, match=path):
        check(store, manifest)


def test_a_part_in_the_place_of_a_known_one_is_refused(store: Store, prepared: Prepared) -> None:
    """The copy of the receipt is ours, the footer is not."""
    manifest = begun(store, prepared)
    path = commit(store, prepared, manifest.run)
    save_receipts(store, list(Ledger(store).receipts().values()))
    other = open_store(f"{store.url}-other")
    commit(other, prepared, "another")
    store.put(path, other.read(path))
    with pytest.raises(MismatchError, match=path):
        check(store, manifest)


@pytest.mark.parametrize("name", ["part-00007-0000000000.parquet", "part-00000-0000000001.parquet"])
def test_a_part_of_no_unit_is_refused(store: Store, prepared: Prepared, name: str) -> None:
    """Readers of the data set would see its rows, though no unit of the run has them."""
    manifest = begun(store, prepared)
    path = commit(store, prepared, manifest.run)
    store.put(f"results/{name}", store.read(path))
    with pytest.raises(MismatchError, match=f"'results/{name}'.*no unit"):
        check(store, manifest)


def test_an_output_of_an_older_version_goes_on(store: Store, prepared: Prepared) -> None:
    """Its parts name no run; those that this version adds do. Those of others are refused."""
    begun(store, prepared)
    record = json.loads(store.read(KEY))
    del record["run"]
    store.put(KEY, json.dumps(record).encode())
    manifest = find_run(store)
    assert manifest is not None
    commit(store, prepared, None)
    check(store, manifest)
    more = replace(prepared, unit=replace(prepared.unit, first_row=3))
    answers: dict[int, Outcome] = {number: answer("a") for number in range(3)}
    commit_unit(store, replace(job(), run=manifest.run), more, answers, {})
    check(store, manifest)
    listed = Ledger(store).committed()
    receipts = Ledger(store).receipts()
    check_receipts(manifest, receipts, listed)
    foreign = {key: {**receipt, "run": "another"} for key, receipt in receipts.items()}
    with pytest.raises(MismatchError, match="2 parts, for example"):
        check_receipts(manifest, foreign, listed)


def test_a_part_without_a_name_of_its_run_is_refused(store: Store, prepared: Prepared) -> None:
    """Where the manifest has the name, an older output's part was copied in."""
    manifest = begun(store, prepared)
    path = commit(store, prepared, None)
    with pytest.raises(MismatchError, match=path):
        check(store, manifest)
