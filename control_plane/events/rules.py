"""Which rules there are on who may do what on which hosts; they give and take authority and are signed."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.events.envelope import Key
from control_plane.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCreated(Event):
    """From now on this rule counts, beside what each role may do anyway.

    Attributes:
        rule_id: what it is called by.
        effect: allow, deny or approve.
        subject: user:NAME or role:NAME.
        actions: the permissions that it is about.
        all_hosts: whether it is about every host.
        groups: else it is about the hosts of these groups.
        hostnames: and about these hosts.
        accounts: the accounts to run as that it is about; any, where there is none.
        command: shell, or argv where only an absolute program with its arguments is within it, or template.
        most_hosts: a request for more is not within it; null: for any number.
        longest_timeout: seconds; a request for longer is not within it; null: for any time.
        reason: for people.
        patterns: it is about command lines that one of these fits; any, where there is none.
        templates: where `command` is template, those that are within it; any, where there is none.
    """

    KIND: ClassVar[str] = "rule.created"
    GIVES_AUTHORITY: ClassVar[bool] = True

    rule_id: str
    effect: str
    subject: str
    actions: tuple[str, ...]
    all_hosts: bool
    groups: tuple[str, ...]
    hostnames: tuple[str, ...]
    accounts: tuple[str, ...]
    command: str
    most_hosts: int | None = None
    longest_timeout: int | None = None
    reason: str | None = None
    patterns: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None

    def key(self) -> Key:
        return Key(self.rule_id, self.KIND)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDeleted(Event):
    """It counts no more, and none of that id ever will again.

    Attributes:
        rule_id: what it is called by.
    """

    KIND: ClassVar[str] = "rule.deleted"
    GIVES_AUTHORITY: ClassVar[bool] = True

    rule_id: str

    def key(self) -> Key:
        return Key(self.rule_id, self.KIND)
