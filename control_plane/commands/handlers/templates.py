"""Command templates: listed, made, deleted. No rule is about these: who may make them, may by role."""

from control_plane.commands.access import Principal
from control_plane.commands.handling import Handling
from control_plane.commands.templates import Template, decide_delete_template, decide_template


class TemplateHandler:
    def __init__(self, handling: Handling) -> None:
        self._handling = handling

    async def templates(self, principal: Principal) -> list[Template]:
        """All of them by name, for whoever may run something or may make them."""
        handling = self._handling
        permission = "templates.write" if "templates.write" in principal.permissions else "tasks.run"
        await handling.check(principal, permission, "templates")
        return sorted(handling.authority.templates.templates.values(), key=lambda template: template.name)

    async def create(self, principal: Principal, template: Template) -> int:
        """Make a template; its seq.

        Raises:
            RefusedError: `template_exists`, `too_many_templates`.
        """
        handling = self._handling
        await handling.admit(principal, "templates.write", f"templates/{template.name}")
        return await handling.decide_and_record(
            lambda: decide_template(handling.authority.templates, template), actor=principal.username
        )

    async def delete(self, principal: Principal, name: str) -> int:
        """End a template; the seq of that. What was accepted stays as it was. Raises NotFoundError."""
        handling = self._handling
        await handling.admit(principal, "templates.write", f"templates/{name[:64]}")
        return await handling.decide_and_record(
            lambda: decide_delete_template(handling.authority.templates, name), actor=principal.username
        )
