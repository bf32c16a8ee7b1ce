"""Access rules: who may do what on which hosts, beside what the roles may."""

from typing import Annotated, Any, Final, Literal, Self

from fastapi import Path
from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator

from control_plane.api.fields import Answer, Items, Line, Name, Request, Seconds, Seq, TemplateName, wait_for_authority
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.commands.rulemaking import MAX_LISTED, MAX_PATTERNS
from control_plane.commands.rules import ACTIONS, Rule
from control_plane.commands.targets import MAX_HOSTS

Names = Annotated[list[Name], Field(min_length=1, max_length=MAX_LISTED)]
Account = Annotated[StrictStr, Field(min_length=1, max_length=64)]
Actions = Annotated[
    list[Annotated[StrictStr, Field(max_length=64, json_schema_extra={"enum": sorted(ACTIONS)})]],
    Field(min_length=1, max_length=len(ACTIONS)),
]

router = noun("/rules", "access")

ABSENT: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "there is no such rule"}}


class RuleHosts(Request):
    """Either `all`, or the hosts of some groups and some by name."""

    all: StrictBool | None = None
    groups: Names | None = None
    hostnames: Names | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        is_named = self.groups is not None or self.hostnames is not None
        if self.all is False or bool(self.all) == is_named:
            raise ValueError("has to be all: true, or groups, hostnames or both")
        return self


class CreateRule(Request):
    """A rule.

    Attributes:
        effect: an allow covers what it is about as far as that is within its limits; a deny refuses what it is about,
            and with limits only what is not within them. Where no allow covers a host of the request, or a deny
            refuses one, the whole request is refused. An approve asks for a second person's approval of what a deny
            would refuse.
        subject: `user:NAME` or `role:NAME`.
        actions: `tasks.run` also resumes and lets a canary go on, `tasks.cancel` also pauses, `hosts.revoke` also
            retires and lifts a quarantine. All other permissions are by role alone. An approve is about `tasks.run`.
        accounts: only what runs as one of these; any by default.
        patterns: of an approve or a deny: only command lines that one of them fits as a whole; `*` is any text, and
            letters are of either case. They remind; of a shell line they keep nobody out.
        command: a limit, where it is `argv`: an argv whose program is an absolute path; or `template`: what is made
            from one of `templates`, or from any where those are left out.
        most_hosts: a limit on the hosts of the whole request.
        longest_timeout: a limit in seconds.
    """

    effect: Literal["allow", "deny", "approve"]
    subject: StrictStr = Field(min_length=1, max_length=80)
    actions: Actions
    hosts: RuleHosts
    accounts: Annotated[list[Account], Field(min_length=1, max_length=MAX_LISTED)] | None = None
    command: Literal["shell", "argv", "template"] = "shell"
    most_hosts: Annotated[StrictInt, Field(ge=1, le=MAX_HOSTS)] | None = None
    longest_timeout: Seconds | None = None
    reason: Line | None = None
    patterns: Annotated[list[Line], Field(min_length=1, max_length=MAX_PATTERNS)] | None = None
    templates: Annotated[list[TemplateName], Field(min_length=1, max_length=MAX_LISTED)] | None = None

    def decided(self) -> Rule:
        return Rule(
            rule_id="",
            effect=self.effect,
            subject=self.subject,
            actions=frozenset(self.actions),
            all_hosts=bool(self.hosts.all),
            groups=frozenset(self.hosts.groups or ()),
            hostnames=frozenset(self.hosts.hostnames or ()),
            accounts=frozenset(self.accounts or ()),
            command=self.command,
            most_hosts=self.most_hosts,
            longest_timeout=self.longest_timeout,
            reason=self.reason,
            patterns=frozenset(self.patterns or ()),
            templates=frozenset(self.templates or ()),
        )


class CoveredHosts(Answer):
    all: bool
    groups: list[str]
    hostnames: list[str]


class AccessRule(Answer):
    """A rule as it stands.

    Attributes:
        built_in: what a role may do anyway; it cannot be deleted.
        accounts, patterns, templates: any, where there is none.
        seq: the event that made it; null where it is built in.
    """

    rule_id: str
    built_in: bool
    effect: str
    subject: str
    actions: list[str]
    hosts: CoveredHosts
    accounts: list[str]
    command: str
    most_hosts: int | None
    longest_timeout: int | None
    reason: str | None
    patterns: list[str]
    templates: list[str]
    seq: int | None


class RuleChange(Answer):
    """A change that is in the log as event `seq`; read with `min_seq` to see it."""

    rule_id: str
    seq: int


class NewRule(RuleChange):
    """Attributes: `warnings`: groups and hosts that it names and nobody has, which is allowed, and may be a typo."""

    warnings: list[str]


def rule_of(rule: Rule) -> AccessRule:
    return AccessRule(
        rule_id=rule.rule_id,
        built_in=rule.created_seq == 0,
        effect=rule.effect,
        subject=rule.subject,
        actions=sorted(rule.actions),
        hosts=CoveredHosts(all=rule.all_hosts, groups=sorted(rule.groups), hostnames=sorted(rule.hostnames)),
        accounts=sorted(rule.accounts),
        command=rule.command,
        most_hosts=rule.most_hosts,
        longest_timeout=rule.longest_timeout,
        reason=rule.reason,
        patterns=sorted(rule.patterns),
        templates=sorted(rule.templates),
        seq=rule.created_seq or None,
    )


@router.get("")
async def list_rules(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[AccessRule]:
    """What the roles may do, then the rules that were made, oldest first. For administrators."""
    await wait_for_authority(services, min_seq)
    return Items(items=[rule_of(rule) for rule in await services.rules.rules(caller)])


@router.post("", status_code=201, dependencies=SENSITIVE)
async def create_rule(services: Given, caller: Caller, body: CreateRule) -> NewRule:
    """Make a rule, which counts from now on, also for what waits to be sent. The same once more is another one."""
    rule = body.decided()
    rule_id, seq = await services.rules.create(caller, rule)
    return NewRule(rule_id=rule_id, seq=seq, warnings=services.rules.warnings(caller, rule))


@router.delete("/{rule_id}", responses=ABSENT, dependencies=SENSITIVE)
async def delete_rule(services: Given, caller: Caller, rule_id: Annotated[str, Path(max_length=64)]) -> RuleChange:
    """End a rule."""
    return RuleChange(rule_id=rule_id, seq=await services.rules.delete(caller, rule_id))
