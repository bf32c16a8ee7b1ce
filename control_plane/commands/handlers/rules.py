"""Access rules: listed, made, deleted. No rule is about these: who may, may by role, so nobody is locked out."""

from dataclasses import replace

from control_plane.commands.access import AccessState, Principal
from control_plane.commands.handling import Handling
from control_plane.commands.reading import owner, within
from control_plane.commands.rulemaking import decide_delete_rule, decide_rule, new_rule_id
from control_plane.commands.rules import BUILT_IN, Rule, is_about_oneself
from control_plane.errors import NotAllowedError


class RuleHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def rules(self, principal: Principal) -> list[Rule]:
        """What the roles may do, then the rules that were made, oldest first."""
        await self._handling.admit(principal, "rules.read", "rules")
        return [*BUILT_IN, *self._handling.authority.rules.rules.values()]

    async def create(self, principal: Principal, rule: Rule) -> tuple[str, int]:
        """Make a rule; its id, which is a new one whatever `rule` says, and its seq.

        Raises:
            RefusedError: `invalid_request` with the field, `too_many_rules`.
        """
        handling = self._handling
        await handling.admit(principal, "rules.write", "rules")
        authority = handling.authority
        async with handling.recording(principal, "rules", "rules.write"):
            _check_subject(authority.access, principal, rule)
        event = decide_rule(authority.access, authority.rules, replace(rule, rule_id=new_rule_id()))
        return event.rule_id, await handling.record_new(event, actor=principal.username)

    def warnings(self, principal: Principal, rule: Rule) -> list[str]:
        """What a rule names, and is not there to be seen: a slip of the pen, or still to come."""
        authority = self._handling.authority
        seen = authority.readable(owner(principal), "hosts.read")
        hosts = [
            host for name, host in authority.fleet.hosts.items() if host.status != "retired" and within(seen, [name])
        ]
        groups = set().union(*(host.groups for host in hosts))
        names = {host.hostname for host in hosts}
        return [
            *(f"no host that you may see is in the group {group}" for group in sorted(rule.groups - groups)),
            *(f"there is no host {name} that you may see" for name in sorted(rule.hostnames - names)),
        ]

    async def delete(self, principal: Principal, rule_id: str) -> int:
        """End a rule; the seq of that. Raises NotFoundError."""
        handling = self._handling
        await handling.admit(principal, "rules.write", f"rules/{rule_id}")
        if (rule := handling.authority.rules.rules.get(rule_id)) is not None:
            async with handling.recording(principal, f"rules/{rule_id}", "rules.write"):
                _check_subject(handling.authority.access, principal, rule)
        event = decide_delete_rule(handling.authority.rules, rule_id)
        return await handling.record_new(event, actor=principal.username)


def _check_subject(people: AccessState, principal: Principal, rule: Rule) -> None:
    """Whether this rule is the principal's to make and to end; an administrator may all anyway.

    Raises:
        NotAllowedError: it is about the principal, or about those who could see and undo what the principal does.
    """
    if principal.is_administrator:
        return
    if is_about_oneself(principal, rule):
        raise NotAllowedError("not_allowed", f"a rule about {rule.subject} is somebody else's to make and to end")
    if people.is_overseer(rule.subject):
        raise NotAllowedError("not_allowed", f"a rule about {rule.subject} is an administrator's to make and to end")
