"""What README and docs show is what there is: commands, fields, files, columns, codes, numbers."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer.main
import yaml

from gemma_batch import errors
from gemma_batch.answering.answers import AnswerShape
from gemma_batch.cli.commands import app
from gemma_batch.driver.retry import WORTH_A_RETRY
from gemma_batch.errors import FAILURE_MEANING
from gemma_batch.reporting.report import Report
from gemma_batch.spec import JobSpec
from gemma_batch.spec.reference import parts
from gemma_batch.storage.parts import errors_schema, results_schema
from tests.docs.pages import (
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    prose,
    readme_spec,
    shell_lines,
    spans,
    table,
)

PROGRAM: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = PROGRAM.commands
OWN_OPTIONS = {option for param in PROGRAM.params for option in param.opts} | {"--help"}
OPTIONS = {
    option for one in COMMANDS.values() for param in one.params for option in param.opts
} | OWN_OPTIONS
FIELDS = {f"{path}.{name}".strip(".") for path, part in parts() for name in part.model_fields}
NOT_OURS = ("results/", "errors/", "_run/", ".cache/", "google/", "ray.data")  # made by programs
OF_OTHERS = {"job.yaml", "report.html", "generation_config.json", "state.json"}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# -- commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("line", shell_lines("gemma-batch"))
def test_every_command_shown_parses(line: str) -> None:
    """By the command line's own definition: command, arguments, options and their values."""
    _, name, *arguments = shlex.split(line, comments=True)
    assert name in COMMANDS
    with COMMANDS[name].make_context(name, arguments):
        pass


def test_every_command_and_option_in_a_sentence_exists() -> None:
    """`gemma-batch x` and `--option` between backticks."""
    for page, text in PAGES.items():
        for span in spans(text):
            words = span.split()
            if words[0] == "gemma-batch" and len(words) > 1 and words[1] not in OWN_OPTIONS:
                assert words[1] in COMMANDS, f"{page}: {span}"
                known = {o for param in COMMANDS[words[1]].params for o in param.opts}
                given = {word.split("=")[0] for word in words if word.startswith("--")}
                assert given <= known, f"{page}: {span}"
            elif words[0].startswith("--"):
                assert words[0].split("=")[0] in OPTIONS, f"{page}: {span}"


def test_make_targets_shown_exist() -> None:
    """`make x` on any page and in CONTRIBUTING is a target."""
    text = "\n".join([*PAGES.values(), CONTRIBUTING])
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE))
    assert {"quickstart", "test", "faults", "bench"} <= shown <= targets


def test_the_two_commands_are_targets_that_ci_runs() -> None:
    """The README's first block: two commands, each a target, each run by CI."""
    lines = [line.split("#")[0].strip() for line in blocks("bash", "README.md")[0].splitlines()]
    assert lines == ["make quickstart", "make test"]
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert set(lines) <= set(ci)


def test_every_extra_shown_exists() -> None:
    """`pip install '.[x,y]'` installs what pyproject.toml knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = ",".join(re.findall(r"\.\[([\w,]+)\]'", "\n".join(PAGES.values()))).split(",")
    assert set(shown) <= project["optional-dependencies"].keys()
    assert {"gpu", "jobs", "airflow"} <= set(shown)
    versions = re.search(r"vLLM (\d\.\d+) to (\d)\.(\d+)", README)
    assert versions, "the README says which vLLM it takes"
    low, major, high = versions.groups()
    requirement = f"vllm>={low},<{major}.{int(high) + 1}"
    assert requirement in project["optional-dependencies"]["gpu"]


@pytest.mark.parametrize("line", shell_lines("python"))
def test_every_module_shown_takes_its_options(line: str) -> None:
    """`python -m jobs.x --option`: the module is there and knows the option."""
    _, flag, module, *arguments = shlex.split(line, comments=True)
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert flag == "-m"
    assert all(f'"{one}"' in source for one in arguments if one.startswith("--"))


# -- deployments ------------------------------------------------------------------------------


@pytest.mark.parametrize("line", shell_lines("kubectl", "docker", "cp"))
def test_every_deployment_command_names_what_is_there(line: str) -> None:
    """Paths exist, overlays are kustomizations, build targets are stages, secrets are used."""
    line = line.split(" #")[0].strip()
    for path in re.findall(r"(?:^| )((?:infra|docker|jobs|scripts)/\S+)", line):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"-k (\S+)", line):
        assert (ROOT / path / "kustomization.yaml").is_file()
    for target in re.findall(r"--target (\w+)", line):
        assert f" AS {target}\n" in (ROOT / "docker/Dockerfile").read_text()
    for service in re.findall(r"--exit-code-from (\S+)", line):
        assert service in yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    manifests = "".join(path.read_text() for path in (ROOT / "infra/kuberay/base").rglob("*.yaml"))
    for secret in re.findall(r"secret (?:generic )?(gemma-\S+)", line):
        assert secret in manifests
    for namespace in re.findall(r"-n (\S+)|namespace (\S+)", line):
        assert "".join(namespace) == "gemma-batch"


def test_every_overlay_is_in_the_table() -> None:
    """What there is to apply is listed, and nothing else."""
    overlays = {path.parent.name for path in ROOT.glob("infra/kuberay/overlays/*/job.yaml")}
    shown = {name.strip("`") for name, _ in table("docs/kubernetes.md", "overlay", "use")}
    assert shown == overlays | {"cluster"}


def test_every_monitoring_file_is_in_the_table() -> None:
    """What there is for Prometheus and Grafana is listed, and nothing else."""
    rows = table("docs/watching.md", "file in `infra/monitoring/`", "use")
    there = {path.name for path in (ROOT / "infra/monitoring").iterdir()}
    assert {name.strip("`") for name, _ in rows} == there


# -- the spec ---------------------------------------------------------------------------------


def test_the_spec_shown_is_valid() -> None:
    """The contract with users loads as it stands."""
    assert JobSpec.from_dict(readme_spec()).name == "support-tickets"


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_block_is_valid(text: str) -> None:
    """A whole spec, or fields that the README's spec may have."""
    shown = yaml.safe_load(text)
    assert JobSpec.from_dict({**readme_spec(), **shown})


def test_every_alert_is_shown() -> None:
    """The example of alerts leaves none out."""
    (alerts,) = (text for text in blocks("yaml") if "alerts:" in text)
    job = JobSpec.from_dict({**readme_spec(), **yaml.safe_load(alerts)})
    assert job.policy.alerts.stop == ("max_failed_share",)
    assert None not in job.policy.alerts.model_dump().values()


def test_every_field_named_exists() -> None:
    """`policy.stop.failed_share`, `--set sampling.max_tokens=64`, `resources.order: auto`."""
    tops = {name for name in FIELDS if "." not in name}
    found = 0
    for page, text in PAGES.items():
        named = re.findall(r"--set ([\w.]+)=", text) + [re.split("[:=]", s)[0] for s in spans(text)]
        for name in (re.sub(r"^routes\.\d+\.", "routes.", one) for one in named):
            if re.fullmatch(r"\w+(\.\w+)+", name) and name.split(".")[0] in tops - {"model"}:
                assert name in FIELDS, f"{page}: {name}"
                found += 1
    assert found > 40


def test_the_defaults_shown_are_the_defaults() -> None:
    """The table of what a run tolerates."""
    job = JobSpec.from_dict(readme_spec())
    rows = table("docs/reliability.md", "field", "default", "meaning")
    assert len(rows) == 10
    for field, default, _ in rows:
        value: Any = job
        for name in field.strip("`").split("."):
            value = getattr(value, name)
        assert float(default) == value, field


# -- Python -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_uses_what_there_is(code: str) -> None:
    """It parses; every name that it takes from this package exists and is public."""
    import gemma_batch

    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gemma_batch"):
            spec = importlib.util.find_spec(node.module or "")
            assert spec is not None
            assert spec.origin is not None
            there = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
            texts = {n.value for n in ast.walk(there) if isinstance(n, ast.Constant)}
            assert {alias.name for alias in node.names} <= texts, "not in its __all__"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "gemma_batch":
                assert node.attr in gemma_batch.__all__
            if node.value.id == "report":
                assert hasattr(Report, node.attr) or node.attr in Report.__dataclass_fields__


def test_the_airflow_example_gives_arguments_that_the_operator_has() -> None:
    """Read, not imported: Airflow is not in this environment."""
    (code,) = blocks("python", "docs/airflow.md")
    (call,) = (
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "GemmaBatchOperator"
    )
    module = ast.parse((ROOT / "gemma_batch/ops/airflow/operator.py").read_text(encoding="utf-8"))
    (made,) = (n for n in ast.walk(module) if getattr(n, "name", "") == "__init__")
    assert isinstance(made, ast.FunctionDef)
    ours = {argument.arg for argument in made.args.kwonlyargs}
    assert {keyword.arg for keyword in call.keywords} <= ours | {"task_id", "outlets"}


# -- the output -------------------------------------------------------------------------------


def test_every_failure_code_is_explained_and_its_retry_told() -> None:
    """The table of codes is complete and true."""
    rows = table("docs/output.md", "code", "meaning", "retried by `retry`")
    assert {code.strip("`") for code, *_ in rows} == {code.value for code in FAILURE_MEANING}
    assert all(meaning for _, meaning, _ in rows)
    again = {code.strip("`") for code, _, told in rows if told.strip("| ") == "yes"}
    assert again == {code.value for code in WORTH_A_RETRY}


def test_every_column_of_the_output_is_named() -> None:
    """Both tables of columns are complete and in the order of the files."""
    nothing = pa.schema([])
    shape = AnswerShape(logprobs=True)
    results = results_schema(nothing, shape.fields(), shape.details())
    for schema, folder in ((results, "results"), (errors_schema(nothing), "errors")):
        columns = {field.name: str(field.type) for field in schema}
        section = PAGES["docs/output.md"].partition(f"## Columns of `{folder}`")[2]
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", section.split("\n## ")[0], re.MULTILINE)
        assert [name for name, _ in rows] == list(columns)
        for name, kind in rows:
            assert kind == ("text" if columns[name] == "string" else "number"), name
        (line,) = re.findall(rf"^\| `{folder}/\*\.parquet` \| (.*) \|$", README, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", line)) <= set(columns)


def test_every_exit_code_is_in_the_table() -> None:
    """What the exceptions end a program with, and nothing else."""
    shown = {int(code) for code, _ in table("README.md", "exit code", "meaning")}
    kinds = [one for one in vars(errors).values() if hasattr(one, "exit_code")]
    codes = {kind.exit_code for kind in kinds}
    assert shown == codes | {0, errors.TOO_MANY_FAILED, errors.INTERRUPTED}


# -- links, files, numbers --------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_leads_somewhere(page: str) -> None:
    """To a file that exists and, where it names one, a heading of it."""
    for target in re.findall(r"\]\(([^)]+)\)", prose(PAGES[page])):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page: str) -> None:
    """Paths between backticks are paths of this repository; bare file names exist somewhere."""
    for span in spans(PAGES[page]):
        if re.fullmatch(r"[\w.-]+(/[\w.*-]+)*/?", span) and not span.startswith(NOT_OURS):
            if "/" in span:
                assert list(ROOT.glob(span.rstrip("/"))), span
            elif not span.startswith(".") and span.endswith(
                (".md", ".py", ".yml", ".yaml", ".json", ".html")
            ):
                assert span in OF_OTHERS or any_file(span), span


def any_file(name: str) -> bool:
    tops = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return (ROOT / name).exists() or any(list(top.rglob(name)) for top in tops)


def test_every_page_is_linked_from_the_readme_which_is_short() -> None:
    """A newcomer reads at most 200 lines, and finds the rest from there."""
    assert len(README.splitlines()) <= 200
    for page in PAGES:
        assert page == "README.md" or f"({page})" in README, page


def test_numbers_shown_were_measured() -> None:
    """Each figure in the table of speeds stands in the results; so does each kind of machine."""
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    for row in table("docs/performance.md", "load", *SPEEDS):
        for figure in re.findall(r"\d+\.\d+", " ".join(row)):
            assert f"| {figure} " in results, figure
    ran_on_gpu = re.search(r"^## .*\b(GPU|[HBL]\d+|A100)", results, re.MULTILINE) is not None
    said = "has not yet been run on a GPU" in " ".join(README.split())
    assert said != ran_on_gpu, "README and benchmarks/RESULTS.md disagree on GPUs"


def test_the_changelog_is_in_its_form() -> None:
    """Keep a Changelog: known sections, one line for each change."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\n## [Unreleased]\n" in text
    sections = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for line in text.partition("## [Unreleased]")[2].splitlines():
        assert not line or line.startswith(("#", "- ")), f"a change is one line: {line!r}"
        assert len(line) <= 110, line


SPEEDS = (
    "`vllm.LLM.generate`, all at once",
    "gemma_batch",
    "`ray.data.llm` (tuned)",
    "`vllm run-batch`",
)
