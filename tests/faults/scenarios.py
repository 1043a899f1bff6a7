"""The faults: each is a function that runs one job through one attack, and is judged the same.

A scenario returns None when the run survived (it is then checked), or the sentence with which it
was refused. `@fault(what, how)` puts it into the table, in the table's order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .harness import Bench, Job

Scenario = Callable[[Bench], Job]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of the table. `quick` ones run in `make test`; `base` names the clean job."""

    name: str
    what: str
    how: str
    run: Scenario
    quick: bool
    base: str


FAULTS: dict[str, Fault] = {}


def fault(
    what: str, how: str, *, quick: bool = False, base: str = "echo"
) -> Callable[[Scenario], Scenario]:
    """Register a scenario under its function's name."""

    def register(function: Scenario) -> Scenario:
        name = function.__name__
        FAULTS[name] = Fault(name=name, what=what, how=how, run=function, quick=quick, base=base)
        return function

    return register
