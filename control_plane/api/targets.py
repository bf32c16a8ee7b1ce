"""Targets: what may be asked for, and the preview of the exact hosts that it comes to."""

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import Field, StrictBool, StrictInt, StrictStr, WithJsonSchema, model_validator

from control_plane.api.fields import (
    Answer,
    Command,
    HostTermsOfBody,
    Name,
    Request,
    Seconds,
    TemplateName,
    Text,
    Time,
    at_s,
)
from control_plane.api.routing import noun
from control_plane.api.services import Caller, Given
from control_plane.commands.guard import Guard as GuardDecision
from control_plane.commands.targets import MAX_HOSTS, parse_target
from control_plane.commands.targets import Target as TargetDecision
from control_plane.commands.tasks import BEYOND_BASIC
from control_plane.commands.templates import MAX_PARAMETERS, RunTemplate
from control_plane.errors import InvalidFieldError
from control_plane_wire.messages import DEFAULT_EXPIRY_S
from control_plane_wire.strict_json import JsonObject

if TYPE_CHECKING:
    from control_plane.api.commands import RunCommand

router = noun("/targets", "tasks")


# What they may be the template says; they are checked against it, with errors that name them.
Value = Annotated[Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]})]
Parameters = Annotated[dict[StrictStr, Value], Field(max_length=MAX_PARAMETERS)]
OF_TEMPLATES: Final = ("command", "argv", "timeout", "user", "env", "secrets", "cwd", "stdin")


def is_of_template(body: "PreviewTarget | RunCommand") -> bool:
    """Whether it is a template that is asked for, and nobody else says what that says. Raises InvalidFieldError."""
    if body.template is None:
        if body.parameters is not None:
            raise InvalidFieldError("parameters", "are of a template")
        return False
    for name in OF_TEMPLATES:
        if getattr(body, name) is not None:
            raise InvalidFieldError(name, "is what the template says")
    return True


class Target(Request):
    """Exactly one of: a host, a group, all hosts, some hosts, what a query finds (as `q` of `GET /hosts`)."""

    host: Name | None = None
    group: Name | None = None
    all: StrictBool | None = None
    hosts: Annotated[list[Name], Field(min_length=1, max_length=MAX_HOSTS)] | None = None
    query: HostTermsOfBody | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1 or self.all is False:
            raise ValueError("has to be one of host, group, all: true, hosts, query")
        return self

    def decided(self) -> TargetDecision:
        """Raises HostQueryError where its query says nothing that hosts could be found by."""
        return parse_target(self.model_dump(exclude_none=True))


class PreviewTarget(Request):
    """What a command would come to.

    Attributes:
        command: what is going to be run, for the guard.
        user, timeout, argv: of the request, for the rules; what is left out is within no limit and no account.
        env, secrets, cwd, stdin: of the request, what basic agents lack.
        template, parameters: in place of all these.
    """

    target: Target
    command: Command | None = None
    user: StrictStr | None = Field(None, max_length=64)
    timeout: Seconds | None = None
    argv: Annotated[list[Text], Field(min_length=1, max_length=1024)] | None = None
    env: dict[StrictStr, StrictStr] | None = None
    secrets: dict[StrictStr, StrictStr] | None = Field(None, repr=False)
    cwd: StrictStr | None = None
    stdin: StrictStr | None = None
    template: TemplateName | None = None
    parameters: Parameters | None = None

    @property
    def needs_full_agent(self) -> str | None:
        given = [name for name in BEYOND_BASIC if getattr(self, name) is not None]
        return ", ".join(given) or None

    @property
    def asked(self) -> JsonObject:
        """What the rules look at, as far as it is given."""
        asked: JsonObject = self.model_dump(include={"user", "timeout", "argv"}, exclude_none=True)
        return asked | {"command": shlex.join(self.argv) if self.argv else self.command or ""}

    def filled(self) -> RunTemplate | None:
        """What is asked for, where that is a template."""
        if not is_of_template(self):
            return None
        return RunTemplate(
            task_id="",
            target=self.target.decided(),
            template=self.template or "",
            parameters=self.parameters or {},
            expires_in=DEFAULT_EXPIRY_S,
        )


class Excluded(Answer):
    hostname: str
    reason: str


class Guard(Answer):
    """How carefully to confirm. Level 1 runs, 2 is confirmed, 3 is confirmed with the number and a reason."""

    level: StrictInt
    rules: list[str]


class Preview(Answer):
    """What it comes to.

    Attributes:
        digest: of the frozen list.
        by_state: its hosts by their state just now, for show.
        quarantined: those of them that nothing is sent to until an administrator trusts them again.
        allowed: whether the rules let the caller run it, as far as it was said here.
        refusal: why not, null where they do. `rules`: those that decided, a role's own as role:NAME.
        approval_required: it is allowed, but a second person has to approve it. `approval_rules`: that ask for it.
    """

    preview_id: str
    count: int
    digest: str
    hosts: list[str]
    by_state: Mapping[str, int]
    quarantined: list[str]
    excluded: list[Excluded]
    expires_at: Time
    guard: Guard
    allowed: bool
    refusal: str | None
    rules: list[str]
    approval_required: bool
    approval_rules: list[str]


def guard_of(guard: GuardDecision) -> Guard:
    return Guard(level=guard.level, rules=list(guard.rules))


@router.post("/preview")
async def preview_target(services: Given, caller: Caller, body: PreviewTarget) -> Preview:
    """The exact hosts that a command would go to now, how carefully to confirm it, and whether the rules allow it."""
    if (filled := body.filled()) is not None:
        found = await services.tasks.preview_template(caller, filled)
    else:
        found = await services.tasks.preview(
            caller,
            body.target.decided(),
            body.command or "",
            needs_full_agent=body.needs_full_agent,
            asked=body.asked,
        )
    frozen, decision = found.frozen, found.decision
    shown = await services.host_queries.by_name(frozen.hosts)
    return Preview(
        preview_id=found.preview_id,
        count=len(frozen.hosts),
        digest=frozen.sha256,
        hosts=list(frozen.hosts),
        by_state=Counter(shown[name].state if name in shown else "pending" for name in frozen.hosts),
        quarantined=[name for name in frozen.hosts if services.authority.fleet.is_quarantined(name)],
        excluded=[Excluded(hostname=host.hostname, reason=host.reason) for host in frozen.excluded],
        expires_at=at_s(found.expires_at),
        guard=guard_of(found.guard),
        allowed=decision.allowed,
        refusal=decision.refusal,
        rules=list(decision.rules),
        approval_required=decision.allowed and bool(decision.asking),
        approval_rules=list(decision.asking_rules),
    )
