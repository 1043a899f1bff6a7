"""What every scenario stands on: a job that is driven, attacked and then checked.

`Job.check` is the one judgement: results and errors together equal the input, each key once, with
the right content; every file opens; receipts and report agree with the data.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gemma_batch.committing.ledger import Ledger
from gemma_batch.prompts.tokens import Tokenizer
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import read_receipt
from tests.integration.helpers import command, environment

from .cluster import Cluster, lives
from .proxy import FaultProxy
from .tokens import Tokens

UNIT_ROWS = 50
ROWS = 2000
RATE = 300  # rows/s of one echo engine: about four seconds of work for two of them
MAX_TOKENS = 8
PATIENCE = 300  # seconds for a driver to get somewhere, on a slow machine with other work
USER = "Summarise:\n\n{{ doc }}"
# No document holds it; engines know it by the token ids of `Bench.poison`.
POISON = "zq zq zq poison zq"
POISON_TEXT = f"harmless {POISON}"


class Lost(AssertionError):
    """A promise did not hold."""


class Unavailable(Exception):
    """A scenario cannot run on this machine."""


@dataclass(kw_only=True)
class Job:
    """One output, from its first start to its last; `ids` maps each key to its document."""

    name: str
    spec: dict[str, Any]
    folder: Path
    cluster: Cluster
    tokenizer: Tokenizer
    docs: Mapping[str, str]
    expected_failures: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    seconds: float = 0.0
    drivers: list[Driver] = field(default_factory=list)
    refused: str = ""  # the sentence with which it was refused, where that is right

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output = str(self.spec["output"]["path"])
        self.path = self.folder / "job.yaml"
        self.path.write_text(yaml.safe_dump(self.spec))
        self.log = self.folder / "driver.log"

    @property
    def store(self) -> Store:
        """The output, seen from outside (not through a proxy)."""
        return open_store(self.output)

    # -- driving ----------------------------------------------------------------------------

    def start(self, *arguments: str) -> Driver:
        """A driver process on the cluster: `run` unless another command is given."""
        self.starts += 1
        words = arguments or ("run", str(self.path), "--json")
        env = environment(RAY_ADDRESS=self.cluster.address, **self.env)
        others = frozenset(self.cluster.workers())
        with self.log.open("ab") as log:
            process = subprocess.Popen(command(*words), env=env, stdout=subprocess.PIPE, stderr=log)
        driver = Driver(self, process, others)
        self.drivers.append(driver)
        return driver

    def finish(
        self, *, tries: int = 3, timeout: float = PATIENCE, codes: Sequence[int] = (0, 3)
    ) -> int:
        """Start again until it ends with one of `codes`; the exit code."""
        code = -1
        for _ in range(tries):
            code = self.start().wait(timeout)
            if code in codes:
                return code
        raise Lost(f"{self.name}: exit code {code} after {tries} tries: {self.tail()}")

    def tail(self) -> str:
        """The end of what the drivers said."""
        return self.log.read_text(errors="replace")[-2000:]

    def parts(self) -> list[str]:
        """The names of the committed parts."""
        return self.store.list("results")

    # -- judging ----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `Lost` unless every promise about the data holds."""
        results, errors = self.rows("results"), self.rows("errors")
        found = Counter(row["id"] for row in (*results, *errors))
        twice = [key for key, count in found.items() if count > 1]
        missing, strange = self.docs.keys() - found.keys(), found.keys() - self.docs.keys()
        if twice or missing or strange:
            raise Lost(
                f"{self.name}: {len(twice)} rows twice {twice[:3]}, {len(missing)} missing "
                f"{sorted(missing)[:3]}, {len(strange)} unknown {sorted(strange)[:3]}"
            )
        codes = {row["id"]: row["code"] for row in errors}
        if codes != self.expected_failures:
            wrong = {k: v for k, v in codes.items() if self.expected_failures.get(k) != v}
            absent = self.expected_failures.keys() - codes.keys()
            raise Lost(f"{self.name}: failures {wrong} are not expected, {absent} are missing")
        self._check_content(results)
        self._check_books(len(results), errors)

    def rows(self, folder: str) -> list[dict[str, Any]]:
        """All rows of `results` or `errors`; every file must open."""
        rows: list[dict[str, Any]] = []
        store = self.store
        for key in store.list(folder):
            rows += pq.read_table(pa.BufferReader(store.read(key))).to_pylist()
        return rows

    def _check_content(self, results: list[dict[str, Any]]) -> None:
        echo = self.spec["resources"]["engine"] == "echo"
        for row in results:
            rendered = [
                {"role": "user", "content": USER.replace("{{ doc }}", self.docs[row["id"]])}
            ]
            ids = self.tokenizer.encode(self.tokenizer.chat.render(rendered))
            if len(ids) > 300:  # may have been truncated; its own tests say how
                continue
            right = row["prompt_tokens"] == len(ids) and row["route"] == "all"
            if echo:
                right = right and row["output"] == " ".join(map(str, ids[-MAX_TOKENS:]))
            if not right:
                raise Lost(f"{self.name}: the answer to {row['id']!r} is wrong: {row}")

    def _check_books(self, answered: int, errors: list[dict[str, Any]]) -> None:
        store, receipts = self.store, {}
        for key in store.list("results"):
            receipt, failures = read_receipt(store.open(key))
            data = pq.read_metadata(pa.BufferReader(store.read(key)))
            if receipt["answered"] != data.num_rows or receipt["failed"] != len(failures):
                raise Lost(f"{self.name}: the receipt of {key!r} does not agree with its data")
            receipts[key] = receipt
        report = json.loads(store.read("_run/report.json"))
        codes = Counter(row["code"] for row in errors)
        facts = (report["complete"], report["answered"], report["failed"], report["failures"])
        if facts != (True, answered, len(errors), dict(codes)):
            raise Lost(f"{self.name}: the report says {facts}, the data {answered}, {codes}")

    @property
    def receipts(self) -> list[dict[str, Any]]:
        """The receipts of the parts of generation 0, in the order of their commit."""
        found = Ledger(self.store).receipts().items()
        mine = [receipt for key, receipt in found if key.generation == 0]
        return sorted(mine, key=lambda receipt: float(receipt["finished"]))

    @property
    def commits(self) -> list[float]:
        """When they were committed, in seconds since the epoch."""
        return [receipt["finished"] for receipt in self.receipts]

    def redone(self) -> int | None:
        """Rows that echo engines answered more than once; None for other engines."""
        tally = self.folder / "tally"
        if self.spec["resources"]["engine"] != "echo":
            return None
        return max(0, tally.stat().st_size - len(self.rows("results")))


class Driver:
    """One running driver process.

    `others` are GPU actors of earlier drivers that have not ended yet when this one starts.
    """

    def __init__(
        self, job: Job, process: subprocess.Popen[bytes], others: frozenset[psutil.Process]
    ) -> None:
        self.job, self.process, self._others = job, process, others
        self.began = time.monotonic()
        self.output = b""

    def until(self, reached: Callable[[], object], what: str, timeout: float = PATIENCE) -> Any:
        """Wait until `reached()` is true while the driver runs; its value."""
        deadline = time.monotonic() + timeout
        while True:
            if value := reached():
                return value
            if self.process.poll() is not None:
                raise Lost(f"{self.job.name}: ended before {what}: {self.job.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise Lost(f"{self.job.name}: never {what}: {self.job.tail()}")
            time.sleep(0.05)

    def until_parts(self, more: int, timeout: float = PATIENCE) -> None:
        """Until `more` parts are committed beyond those that were there at its start."""
        wanted = len(self.job.parts()) + more
        self.until(lambda: len(self.job.parts()) >= wanted, f"{more} more parts", timeout)

    def workers(self) -> list[psutil.Process]:
        """The processes of its GPU actors that are there now; each may end at any moment."""
        return [one for one in self.job.cluster.workers() if one not in self._others]

    def until_workers(self, count: int = 1, timeout: float = PATIENCE) -> list[psutil.Process]:
        """Until so many GPU actors are there; their processes."""

        def there() -> list[psutil.Process]:
            found = self.workers()
            return found if len(found) >= count else []

        return list(self.until(there, f"{count} workers", timeout))

    def strike(
        self,
        find: Callable[[], Sequence[psutil.Process]],
        what: str,
        blow: Callable[[psutil.Process], object] = psutil.Process.kill,
    ) -> psutil.Process:
        """Deal the blow to the first process that `find` gives and that lives; this process.

        It waits until there is one: between a death and the new start there is none, and one that
        was found may end before the blow.
        """

        def struck() -> psutil.Process | None:
            for process in find():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if lives(process):
                        blow(process)
                        return process
            return None

        found: psutil.Process = self.until(struck, what)
        return found

    def kill_worker(self, chance: random.Random) -> None:
        """SIGKILL of one of its GPU actors."""

        def shuffled() -> list[psutil.Process]:
            found = self.workers()
            return chance.sample(found, len(found))

        self.strike(shuffled, "a worker to kill")

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send(signal.SIGKILL)
        self.wait(30)

    def expect(self, code: int, *words: str) -> None:
        """It ends with this exit code and says these words."""
        found = self.wait()
        said = self.job.log.read_text(errors="replace")
        if found != code or any(word not in said for word in words):
            raise Lost(
                f"{self.job.name}: exit code {found}, not {code} with {words}: {self.job.tail()}"
            )

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code."""
        try:
            self.output = self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise Lost(f"{self.job.name}: no end within {timeout:g} s: {self.job.tail()}") from None
        self.job.seconds += time.monotonic() - self.began
        return self.process.returncode


@dataclass(kw_only=True)
class Bench:
    """What scenarios build their jobs from."""

    cluster: Cluster
    folder: Path
    model: str
    docs: list[dict[str, Any]]
    s3_url: str
    proxy: FaultProxy
    tokens: Tokens
    chance: random.Random
    tokenizer: Tokenizer = field(init=False)
    jobs: list[Job] = field(default_factory=list)
    later: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        self.tokenizer = Tokenizer.from_folder(self.model)

    def job(
        self,
        name: str,
        *,
        rows: int = ROWS,
        s3: bool = False,
        s3_input: bool = False,
        shards: int = 4,
        special: Mapping[int, str] | None = None,
        format: str = "parquet",
        args: Mapping[str, Any] | None = None,
        resources: Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        output: str | None = None,
        model: str | None = None,
    ) -> Job:
        """A job over `rows` documents; `special` replaces the text of single rows by number."""
        folder = self.folder / f"{len(self.jobs):02d}-{name}"
        documents = [dict(doc) for doc in self.docs[:rows]]
        for number, text in (special or {}).items():
            documents[number]["doc"] = text
        (folder / "in").mkdir(parents=True)
        size = -(-rows // shards)
        for shard in range(shards):
            part = documents[shard * size : (shard + 1) * size]
            if format == "parquet":
                pq.write_table(pa.Table.from_pylist(part), folder / "in" / f"s{shard}.parquet")
            else:
                lines = "".join(json.dumps(doc) + "\n" for doc in part)
                (folder / "in" / f"s{shard}.jsonl").write_text(lines)
        source = str(folder / "in")
        if s3_input:
            source = f"{self.s3_url}/{folder.name}-in"
            for path in sorted((folder / "in").iterdir()):
                open_store(source).put(path.name, path.read_bytes())
        echo: dict[str, Any] = {"rows_per_second": RATE, "tally": str(folder / "tally")}
        if (resources or {}).get("engine", "echo") != "echo":
            echo = {}
        spec = {
            "name": name,
            "input": {"path": f"{source}/*.{format}", "id": "id"},
            "prompt": {"user": USER, "overlong": "truncate_end"},
            "model": model or self.model,
            "sampling": {"max_tokens": MAX_TOKENS, "temperature": 0},
            "output": {
                "path": output or (f"{self.s3_url}/{folder.name}" if s3 else str(folder / "out")),
                "keep": ["module"],
            },
            "resources": {
                "engine": "echo",
                "max_model_len": 512,
                "replicas": 2,
                "engine_args": {**echo, **(args or {})},
                **(resources or {}),
            },
            "policy": {"unit_rows": UNIT_ROWS, "progress_seconds": 2, **(policy or {})},
        }
        job = Job(
            name=name,
            spec=spec,
            folder=folder,
            cluster=self.cluster,
            tokenizer=self.tokenizer,
            docs={doc["id"]: doc["doc"] for doc in documents},
            env={"AWS_ENDPOINT_URL": self.proxy.endpoint},
        )
        self.jobs.append(job)
        return job

    def clear(self) -> None:
        """End drivers that a scenario left behind when it failed."""
        for driver in (driver for job in self.jobs for driver in job.drivers):
            if driver.process.poll() is None:
                driver.kill()

    def poison(self) -> list[int]:
        """The token ids by which engines know a poison row, whatever surrounds it."""
        return self.tokenizer.encode(POISON_TEXT)[-6:]
