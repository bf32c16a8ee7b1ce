"""Command templates: what may be run without free choice of the command."""

from typing import Annotated, Any, Final

from fastapi import Path
from pydantic import Field, StrictInt, StrictStr

from control_plane.api.fields import Answer, Items, Line, Request, Seconds, Seq, TemplateName, Text, wait_for_authority
from control_plane.api.routing import SENSITIVE, noun
from control_plane.api.services import Caller, Given
from control_plane.commands.parameters import MAX_CHARACTERS, MAX_CHOICES, Parameter
from control_plane.commands.templates import MAX_ARGUMENTS, MAX_PARAMETERS, Template, parse_template
from control_plane_wire.strict_json import MAX_INTEGER

router = noun("/templates", "access")

ABSENT: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "there is no such template"}}
Choice = Annotated[StrictStr, Field(min_length=1, max_length=256)]


class TemplateParameter(Request):
    """A parameter; its value becomes text within one argument, and never two arguments or an option.

    Attributes:
        type: `choice`: one of `choices`; `integer`: from `min` to `max`; `name`: of a unit, a package, a host or the
            like; `path`: absolute, without `..`, at `prefix` or below it where that is given; `text`: one line of at
            most `max_length` characters.
    """

    name: StrictStr = Field(max_length=32)
    type: StrictStr = Field(max_length=16, json_schema_extra={"enum": ["choice", "integer", "name", "path", "text"]})
    choices: Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    min: Annotated[StrictInt, Field(ge=0, le=MAX_INTEGER)] | None = None
    max: Annotated[StrictInt, Field(ge=0, le=MAX_INTEGER)] | None = None
    prefix: Annotated[StrictStr, Field(min_length=1, max_length=MAX_CHARACTERS)] | None = None
    max_length: Annotated[StrictInt, Field(ge=1, le=MAX_CHARACTERS)] | None = None


class CreateTemplate(Request):
    """A template.

    Attributes:
        argv: the absolute path of a program, which is no shell, and its arguments; `{name}` in an argument stands for
            the value of that parameter.
        user: the account to run as.
        timeout: seconds that it may run on a host.
        env: of its environment; what makes programs load something else than their own is refused.
    """

    name: TemplateName
    description: Line | None = None
    argv: Annotated[list[Text], Field(min_length=1, max_length=MAX_ARGUMENTS)]
    parameters: Annotated[list[TemplateParameter], Field(max_length=MAX_PARAMETERS)] = Field(default_factory=list)
    user: StrictStr = Field(min_length=1, max_length=64)
    timeout: Seconds
    cwd: Annotated[Text, Field(min_length=1, max_length=4096)] | None = None
    env: dict[Text, Text] | None = None

    def decided(self) -> Template:
        return parse_template(self.model_dump(exclude_none=True))


class ParameterShown(Answer):
    """Attributes: `min` and the others: null where they are of another type, or nothing is said."""

    name: str
    type: str
    choices: list[str] | None
    min: int | None
    max: int | None
    prefix: str | None
    max_length: int | None


class CommandTemplate(Answer):
    """Attributes: `seq`: the event that made it."""

    name: str
    description: str | None
    argv: list[str]
    parameters: list[ParameterShown]
    user: str
    timeout: int
    cwd: str | None
    env: dict[str, str] | None
    seq: int


class TemplateChange(Answer):
    """A change that is in the log as event `seq`; read with `min_seq` to see it."""

    name: str
    seq: int


def template_of(template: Template) -> CommandTemplate:
    return CommandTemplate(
        name=template.name,
        description=template.description,
        argv=list(template.argv),
        parameters=[_parameter_of(parameter) for parameter in template.parameters],
        user=template.user,
        timeout=template.timeout,
        cwd=template.cwd,
        env=None if template.env is None else dict(template.env),
        seq=template.seq,
    )


def _parameter_of(parameter: Parameter) -> ParameterShown:
    said: dict[str, Any] = dict.fromkeys(ParameterShown.model_fields)
    return ParameterShown(**{**said, **parameter.to_json()})


@router.get("")
async def list_templates(services: Given, caller: Caller, min_seq: Seq | None = None) -> Items[CommandTemplate]:
    """By name. For whoever may run something on some host at least."""
    await wait_for_authority(services, min_seq)
    return Items(items=[template_of(template) for template in await services.templates.templates(caller)])


@router.post("", status_code=201, dependencies=SENSITIVE)
async def create_template(services: Given, caller: Caller, body: CreateTemplate) -> TemplateChange:
    """Make a template. One is not changed: delete it and make it anew; what was accepted stays as it was."""
    return TemplateChange(name=body.name, seq=await services.templates.create(caller, body.decided()))


@router.delete("/{name}", responses=ABSENT, dependencies=SENSITIVE)
async def delete_template(services: Given, caller: Caller, name: Annotated[str, Path(max_length=64)]) -> TemplateChange:
    """End a template."""
    return TemplateChange(name=name, seq=await services.templates.delete(caller, name))
