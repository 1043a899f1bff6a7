"""The recipes: each plans on the GPU it names, says what it is for, and is in the README."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.cli.commands import main
from gemma_batch.spec import JobSpec
from tests.docs.pages import table

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / "jobs").glob("*.yaml"))
ROWS = 1000
COLUMNS = (
    "document_id", "body", "ticket_id", "subject", "customer", "invoice_id", "text", "text_id",
    "language", "id", "request_id", "question_id", "question", "audience", "style",
    "language_name", "language_guideline", "audience_guideline", "style_guideline",
)  # fmt: skip


def test_the_readme_lists_each_recipe() -> None:
    """And nothing else."""
    rows = table("README.md", "recipe in `jobs/`", "what it makes of a row")
    assert {name.strip("`") for name, _ in rows} == {path.name for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_plans_on_the_gpu_that_its_header_names(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With rows of the columns it uses, in place of a bucket; its cost is what `plan` prints."""
    text = path.read_text(encoding="utf-8")
    assert "# Size: " in text
    found = re.search(
        r"`gemma-batch (plan \S+ --gpu \S+\s+--price \S+)`", text.replace("\n# ", " ")
    )
    assert found is not None, "the header tells how to see what it costs"
    command = found[1].split()
    assert command[1] == f"jobs/{path.name}"
    rows = {name: [f"{name} {n} " * 20 for n in range(ROWS)] for name in COLUMNS}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    changes = [f"input.path={tmp_path}/in.parquet", f"output.path={tmp_path}/out"]
    options = [word for change in changes for word in ("--set", change)]
    with pytest.raises(SystemExit) as ended:
        main([command[0], str(path), *command[2:], *options, "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    facts = json.loads(out)
    assert facts["rows"] == ROWS
    assert facts["estimate"]["cost"] > 0
    assert JobSpec.load(path).name
