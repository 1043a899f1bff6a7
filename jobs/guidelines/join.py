"""Gives each question the guidelines that its columns `language`, `audience` and `style` choose.

    python -m jobs.guidelines.join jobs/samples/questions.jsonl guided/questions.parquet

The guidelines are the tables beside this file: people change them, and the job
(jobs/guided_answers.yaml) stays as it is. A prompt reads the columns of its row and no other table,
so the tables are joined to the questions first.

Size: millions of questions, in seconds; DuckDB does not hold them all in memory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duckdb

HERE = Path(__file__).parent
TABLES = {"language": "languages.csv", "audience": "audiences.csv", "style": "styles.csv"}
# Equal guidelines stand together, so that an engine computes them once.
GUIDED = """
COPY (
    SELECT questions.*, language.name AS language_name, language.guideline AS language_guideline,
           audience.guideline AS audience_guideline, style.guideline AS style_guideline
    FROM questions JOIN language USING (language) JOIN audience USING (audience)
                   JOIN style USING (style)
    ORDER BY language, audience, style
) TO '{}' (FORMAT parquet)
"""


def quoted(path: Path) -> str:
    """The path as it stands in an SQL text."""
    return str(path).replace("'", "''")


def join(questions: Path, to: Path) -> int:
    """Write the questions with their guidelines as Parquet to `to`; how many they are.

    Raises ValueError, and writes nothing, where a question has no guideline, or two.
    """
    db = duckdb.connect()
    db.sql(f"CREATE VIEW questions AS FROM '{quoted(questions)}'")
    for name, file in TABLES.items():
        source = f"read_csv('{quoted(HERE / file)}', header = true, all_varchar = true)"
        db.sql(f"CREATE TABLE {name} AS FROM {source}")
        twice = db.sql(f"SELECT {name} FROM {name} GROUP BY ALL HAVING count(*) > 1").fetchall()
        if twice:
            raise ValueError(f"{file} has two lines for {name} {twice[0][0]!r}: keep one of them")
        unknown = db.sql(
            f"SELECT {name}, count(*) FROM questions ANTI JOIN {name} USING ({name}) GROUP BY ALL"
        ).fetchall()
        if unknown:
            raise ValueError(
                f"{file} has no line for {name} {unknown[0][0]!r}, which {unknown[0][1]:,} "
                f"questions have ({len(unknown):,} such values): add it, or correct the questions"
            )
    to.parent.mkdir(parents=True, exist_ok=True)
    db.sql(GUIDED.format(quoted(to)))
    (found,) = db.sql(f"SELECT count(*) FROM '{quoted(to)}'").fetchall()
    return int(found[0])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("questions", type=Path, help="JSON lines, CSV or Parquet")
    parser.add_argument("to", type=Path, help="the Parquet file to write")
    options = parser.parse_args()
    try:
        count = join(options.questions, options.to)
    except (ValueError, duckdb.Error) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    print(f"{count:,} questions with their guidelines in {options.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
