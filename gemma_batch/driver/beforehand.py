"""Beforehand: why a run that is started on this machine would be refused (driver, laptop; no Ray).

The command `plan` plans for other machines too, and without the models' files. So it says apart
what a run here would refuse. A run looks for its engines by the same code before it starts Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from gemma_batch.cluster.address import check_address, starts_here
from gemma_batch.cluster.this_machine import this_machine
from gemma_batch.engines.base import engine_class
from gemma_batch.errors import UserError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan
from gemma_batch.planning.pool import gpu_wish, make_pool
from gemma_batch.planning.route_plan import RoutePlan


def hardware_here(routes: Sequence[RoutePlan]) -> Hardware:
    """The hardware of this machine, as a run of these routes would see it."""
    return this_machine(gpus=gpu_wish(routes, 0).wanted)


def check_engines(routes: Sequence[RoutePlan], hardware: Hardware) -> None:
    """Raise `UserError` when this machine lacks the engine of a route."""
    for route in routes:
        device: Literal["cpu", "gpu"] = "gpu"
        if hardware.gpu is None or route.resources.device == "cpu":
            device = "cpu"
        engine_class(route.resources.engine).check_installed(device)


def would_refuse(plan: Plan, hardware: Hardware, *, engines: bool = True) -> list[str]:
    """The reasons, as sentences, why a run on this machine with this hardware would be refused.

    Each sentence is the error of the run. With `engines` False the run has nothing to do for an
    engine. What nodes of a cluster have is not known here: with a cluster in RAY_ADDRESS, the
    reasons are about the driver alone.
    """

    def place() -> None:
        for route in plan.placed(hardware).routes:
            make_pool(route, hardware)

    def look() -> None:
        check_engines(plan.routes, hardware)

    def address() -> None:
        check_address(None)
        if engines and starts_here(None):
            checks.extend([look, place])

    reasons = [route.unreached for route in plan.routes if route.unreached]
    checks: list[Callable[[], None]] = [address]
    for check in checks:  # the first adds the others
        try:
            check()
        except UserError as err:
            reasons.append(str(err))
    return list(dict.fromkeys(reasons))
