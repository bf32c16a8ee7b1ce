"""What the System page tells of the program itself, and of what was not as it should be."""

import asyncio
import sys
from functools import lru_cache
from importlib.metadata import Distribution, distribution, packages_distributions
from typing import Final

from control_plane.api.audit import PROJECTION, trail_of
from control_plane.api.fields import Answer, Items, Seq, Time, at, wait_for_seq
from control_plane.api.routing import noun
from control_plane.api.services import Given, Seen, Services
from control_plane.projections.queries.audit import AuditFilter, AuditQueries

PROGRAM: Final = "control-plane"
MOST: Final = 10_000  # that are counted; beyond it is enough to know that there are many
OF_THE_LOG: Final = {
    "rejected": "message.rejected",
    "conflicts": "execution.conflict",
    "unexpected": "execution.unexpected",
    "late": "execution.late_result",
    "denied": "access.denied",
}
# As `control_plane_happened_total` calls them. What was forged among the dead letters is an event; duplicates are none.
OF_THIS_PROCESS: Final = {
    "results_dead": "message.rejected",
    "heartbeats_dead": "message.rejected",
    "duplicates": None,
}

router = noun("/system", "system", permission="projections.read")


class Counted(Answer):
    """How often something was not as it should be.

    Attributes:
        number: null where nobody here counts it: this process takes no messages from the broker.
        is_more: it was still more often.
        kind: of the events that tell of it; null: there are none.
        since: from when this process, and no other one, has counted; null: all that is in the log.
    """

    name: str
    number: int | None
    is_more: bool
    kind: str | None
    since: Time | None


class Package(Answer):
    """Attributes: `licence`: as its maker writes it."""

    name: str
    version: str
    licence: str


class System(Answer):
    """The program that answers."""

    version: str
    licence: str
    counted: list[Counted]


@router.get("")
async def get_system(services: Given, scope: Seen, min_seq: Seq | None = None) -> System:
    """What runs here, and what has been counted; of events those that the caller may see."""
    await wait_for_seq(services, PROJECTION, min_seq)
    trail = await trail_of(services, scope, (await services.audit_queries.as_of()).event)
    ours = _package(distribution(PROGRAM))
    return System(
        version=ours.version,
        licence=ours.licence,
        counted=[*[await _of_the_log(trail, name, kind) for name, kind in OF_THE_LOG.items()], *_of_this(services)],
    )


@router.get("/packages")
async def list_packages(services: Given, min_seq: Seq | None = None) -> Items[Package]:
    """The work of others that the process that answers has loaded, by name."""
    await wait_for_seq(services, PROJECTION, min_seq)
    return Items(items=list(await asyncio.to_thread(_loaded)))


async def _of_the_log(trail: AuditQueries, name: str, kind: str) -> Counted:
    number = await trail.count(AuditFilter(kind=kind), most=MOST + 1)
    return Counted(name=name, number=min(number, MOST), is_more=number > MOST, kind=kind, since=None)


def _of_this(services: Services) -> list[Counted]:
    here = services.here
    return [
        Counted(
            name=name,
            number=services.metrics.happened(name) if here.takes_messages else None,
            is_more=False,
            kind=kind,
            since=at(here.since_us),
        )
        for name, kind in OF_THIS_PROCESS.items()
    ]


@lru_cache(maxsize=1)
def _loaded() -> tuple[Package, ...]:
    """Those of whose modules there is one in memory. It reads many files."""
    modules = {name.partition(".")[0] for name in sys.modules}
    names = {name.lower() for top, names in packages_distributions().items() if top in modules for name in names}
    return tuple(_package(distribution(name)) for name in sorted(names - {PROGRAM}))


def _package(found: Distribution) -> Package:
    about = found.metadata
    expression, words, classifiers = (
        about.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")
    )
    classes = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    licence = [*expression, *classes, *words, ""][0]
    return Package(name=about["Name"], version=found.version, licence=licence.strip().partition("\n")[0])
