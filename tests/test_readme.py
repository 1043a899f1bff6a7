"""What the README shows is what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main
import yaml

from gemma_batch.cli.commands import app
from gemma_batch.driver.retry import WORTH_A_RETRY
from gemma_batch.errors import FAILURE_MEANING
from gemma_batch.spec import JobSpec
from gemma_batch.storage.parts import ERROR_COLUMNS, RESULT_COLUMNS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).splitlines()
    return [line.split("#")[0].strip() for line in lines if line.startswith("gemma-batch ")]


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_shown_exists(line: str) -> None:
    """Parsed by the command line's own definition."""
    group = typer.main.get_command(app)
    _, name, *arguments = line.replace("'", "").split()
    command = group.commands[name]  # type: ignore[attr-defined]
    options = {option for param in command.params for option in param.opts}
    assert {a for a in arguments if a.startswith("--")} <= options


def deployments() -> list[str]:
    lines = "\n".join(blocks("bash")).splitlines()
    return [
        line.split("#")[0].strip() for line in lines if line.startswith(("kubectl ", "docker "))
    ]


@pytest.mark.parametrize("line", deployments())
def test_every_deployment_command_names_what_is_there(line: str) -> None:
    """Paths exist, overlays are kustomizations, build targets are stages, secrets are used."""
    for path in re.findall(r"(?:-k|-f) ((?:infra|docker)/\S+)", line):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"-k (\S+)", line):
        assert (ROOT / path / "kustomization.yaml").is_file()
    for target in re.findall(r"--target (\w+)", line):
        assert f" AS {target}\n" in (ROOT / "docker/Dockerfile").read_text()
    manifests = "".join(path.read_text() for path in (ROOT / "infra/kuberay/base").rglob("*.yaml"))
    for secret in re.findall(r"secret (?:generic )?(gemma-\S+)", line):
        assert secret in manifests
    for namespace in re.findall(r"-n (\S+)|namespace (\S+)", line):
        assert "".join(namespace) == "gemma-batch"


def test_every_overlay_is_in_the_table() -> None:
    """What there is to apply is listed, and nothing else."""
    overlays = {path.parent.name for path in ROOT.glob("infra/kuberay/overlays/*/job.yaml")}
    table = README.partition("| overlay | what |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.M)) == overlays | {"cluster"}


def test_the_spec_shown_is_valid() -> None:
    """The contract with users loads as it stands."""
    text, *_ = blocks("yaml")
    assert JobSpec.from_dict(yaml.safe_load(text)).name == "support-tickets"


def test_the_alerts_shown_are_valid() -> None:
    """Every field that the example adds to a spec is one that specs have."""
    text, *others = blocks("yaml")
    (alerts,) = (other for other in others if "alerts:" in other)
    job = JobSpec.from_dict({**yaml.safe_load(text), **yaml.safe_load(alerts)})
    assert job.policy.alerts.stop == ("max_failed_share",)
    assert None not in job.policy.alerts.model_dump().values(), "every alert is shown"


def test_the_library_example_uses_what_is_exported() -> None:
    """Every attribute of `gemma_batch` that it names is public."""
    import gemma_batch

    code, *_ = blocks("python")
    used = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "gemma_batch"
    }
    assert used <= set(gemma_batch.__all__)


def test_the_airflow_example_gives_arguments_that_the_operator_has() -> None:
    """Read, not imported: Airflow is not in this environment."""
    _, code = blocks("python")
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


def test_every_failure_code_is_explained_and_its_retry_told() -> None:
    """The table of codes is complete and true."""
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (yes)? ?\|$", README, re.MULTILINE))
    assert rows.keys() == {code.value for code in FAILURE_MEANING}
    assert {code for code, told in rows.items() if told} == {code.value for code in WORTH_A_RETRY}


def test_every_column_of_the_output_is_named() -> None:
    """What comes out is what the table says."""
    for columns, folder in ((RESULT_COLUMNS, "results"), (ERROR_COLUMNS, "errors")):
        (line,) = re.findall(rf"^\| `{folder}/\*\.parquet` \| (.*) \|$", README, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", line)) == set(columns)


def test_make_targets_shown_exist() -> None:
    """`make x` in README and CONTRIBUTING is a target."""
    text = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert (
        set(re.findall(r"`?make (\w+)", "\n".join(re.findall(r"`[^`]+`|^make \w+", text, re.M))))
        <= targets
    )
