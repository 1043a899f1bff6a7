"""Real documents that are on every machine: the docstrings of Python's standard library.

    python -m jobs.stdlib_docs FOLDER --rows 20000 --shards 8

Sources are parsed, never imported. Where whole docstrings are not enough, their paragraphs and
then the functions' own sources follow: over 20,000 distinct documents.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SKIPPED = {"site-packages", "__pycache__", "idlelib", "turtledemo"}
Document = dict[str, Any]


def documents() -> Iterator[Document]:
    """Every document, in a fixed order: whole docstrings first, then their paragraphs."""
    whole = []
    for document in _docstrings():
        whole.append(document)
        yield document
    for document in whole:
        paragraphs = [part.strip() for part in document["doc"].split("\n\n") if part.strip()]
        if len(paragraphs) > 1:
            for number, text in enumerate(paragraphs):
                yield {**document, **_text(text), "id": f"{document['id']}#{number}"}
    for path, module in _sources():
        yield from _source_blocks(path, module)


def _sources() -> Iterator[tuple[Path, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if not SKIPPED & set(parts):
            yield path, ".".join(parts).removesuffix(".__init__")


def _parse(path: Path) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old sources hold invalid escapes on purpose
            return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return None  # test data that is broken on purpose


def _docstrings() -> Iterator[Document]:
    seen: set[str] = set()
    for path, module in _sources():
        tree = _parse(path)
        for name, kind, node in _named(tree) if tree else ():
            text = ast.get_docstring(node)
            key = f"{module}:{name}"
            if text and text.strip() and key not in seen:
                seen.add(key)
                line = getattr(node, "lineno", 1)
                yield _document(key, module, kind, name, line, text)


def _named(tree: ast.Module) -> Iterator[tuple[str, str, Any]]:
    yield "", "module", tree
    stack: list[tuple[str, ast.AST]] = [("", tree)]
    while stack:
        prefix, node = stack.pop()
        for child in reversed(list(ast.iter_child_nodes(node))):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                kind = "class" if isinstance(child, ast.ClassDef) else "function"
                yield name, kind, child
                stack.append((f"{name}.", child))


def _source_blocks(path: Path, module: str) -> Iterator[Document]:
    # Functions themselves are real documents too, should docstrings not be enough.
    tree = _parse(path)
    if tree is None:
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    seen: set[str] = set()
    for name, kind, node in _named(tree):
        if kind == "function" and name not in seen:
            seen.add(name)
            text = inspect.cleandoc("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            yield _document(f"{module}:{name}@source", module, "source", name, node.lineno, text)


def _document(key: str, module: str, kind: str, name: str, line: int, text: str) -> Document:
    return {"id": key, "module": module, "kind": kind, "name": name, "line": line, **_text(text)}


def _text(text: str) -> Document:
    return {"doc": text, "chars": len(text)}


def collect(rows: int | None = None) -> list[Document]:
    """The first `rows` documents (default: all). Raises ValueError when there are fewer."""
    found: list[Document] = []
    for document in documents():
        found.append(document)
        if len(found) == rows:
            break
    if rows is not None and len(found) < rows:
        raise ValueError(f"there are {len(found)} documents, fewer than {rows}")
    return found


def write_docs(folder: str | Path, *, rows: int | None, shards: int) -> int:
    """Write the documents as `shards` Parquet files into `folder`; how many they are."""
    found = collect(rows)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(found) // shards)
    for shard in range(shards):
        part = found[shard * size : (shard + 1) * size]
        pq.write_table(pa.Table.from_pylist(part), folder / f"docs-{shard:03d}.parquet")
    return len(found)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--shards", type=int, default=4)
    options = parser.parse_args()
    count = write_docs(options.folder, rows=options.rows, shards=options.shards)
    print(f"{count:,} documents in {options.shards} shards in {options.folder}")


if __name__ == "__main__":
    main()
