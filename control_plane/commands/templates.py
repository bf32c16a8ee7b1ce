"""Command templates: what may be run without free choice of the command, and what a use of one comes to.

A template says the whole command but for the values of its parameters: program, arguments, account, timeout, directory,
environment. What a use of it came to is in its task, so a later change of the template changes nothing accepted.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from control_plane.commands.grammar import checked_line, checked_number, invalid
from control_plane.commands.parameters import NAME, Parameter, checked_path, parse_parameter
from control_plane.commands.rollouts import Rollout
from control_plane.commands.targets import Target
from control_plane.commands.tasks import CreateTask
from control_plane.errors import NotFoundError, RefusedError
from control_plane.events.event import Event
from control_plane.events.templates import TemplateCreated, TemplateDeleted
from control_plane_wire import strict_json
from control_plane_wire.errors import MalformedMessageError
from control_plane_wire.fields import Fields, is_account
from control_plane_wire.messages import MAX_TIMEOUT_S
from control_plane_wire.strict_json import Json, JsonObject

MAX_TEMPLATES: Final = 500
MAX_ARGUMENTS: Final = 64
MAX_ARGUMENT: Final = 4096  # characters
MAX_PARAMETERS: Final = 16
MAX_VARIABLES: Final = 32
SHELLS: Final = frozenset(
    {"sh", "ash", "bash", "rbash", "dash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "env"}
)
# What makes programs load, run or find something else than their own.
_UNSAFE: Final = re.compile(
    r"(LD_|DYLD_|BASH_|PYTHON|PERL|RUBY|NODE_|GIT_|LUA_|JAVA_|_JAVA|JDK_|GCONV_|GLIBC_).*|"
    r"ENV|PATH|IFS|CDPATH|SHELL|SHELLOPTS|BASHOPTS|PS4|PROMPT_COMMAND|LOCPATH|NLSPATH|TERMINFO.*|"
    r"EDITOR|VISUAL|PAGER|LESSOPEN|LESSCLOSE|MANPAGER|BROWSER|CLASSPATH",
    re.ASCII,
)
_TEMPLATE: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)
_PLACE: Final = re.compile(r"\{(" + NAME.pattern + r")\}", re.ASCII)
_FIELDS: Final = frozenset({"name", "description", "argv", "parameters", "user", "timeout", "cwd", "env"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template; `{name}` in an argument stands for the value of that parameter, any other brace for itself.

    Attributes:
        argv: it begins with the absolute path of a program, which no parameter is in.
        timeout: seconds.
        seq: the event that made it; 0 before there is one.
    """

    name: str
    argv: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    user: str
    timeout: int
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    description: str | None = None
    seq: int = 0

    def filled(self, values: Mapping[str, Json]) -> tuple[str, ...]:
        """Its argv with these values of its parameters; each of them is needed, and no other.

        Raises:
            InvalidFieldError: `parameters`, or one of them.
        """
        if values.keys() != {parameter.name for parameter in self.parameters}:
            names = ", ".join(parameter.name for parameter in self.parameters)
            raise invalid(
                "parameters", f"exactly those of the template: {names}" if names else "empty, as the template's"
            )
        texts = {parameter.name: parameter.text(values[parameter.name]) for parameter in self.parameters}
        return tuple(_PLACE.sub(lambda place: texts[place[1]], argument) for argument in self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTemplate:
    """A template for a target, as it was asked for; the fields that `CreateTask` has as well mean the same."""

    task_id: str
    target: Target
    template: str
    parameters: Mapping[str, Json]
    when_offline: Literal["queue", "skip"] = "queue"
    expires_in: int
    reason: str | None = None
    preview_id: str | None = None
    rollout: Rollout | None = None

    @property
    def sha256(self) -> str:
        """Tells a repeat from another request, whatever has become of the template meanwhile."""
        asked: JsonObject = {
            "target": self.target.to_json(),
            "template": self.template,
            "parameters": dict(self.parameters),
            "when_offline": self.when_offline,
            "expires_in": self.expires_in,
        }
        if self.rollout is not None:
            asked["rollout"] = self.rollout.to_json()
        if self.reason is not None:
            asked["reason"] = self.reason
        return hashlib.sha256(strict_json.canonical(asked)).hexdigest()

    def filled(self, template: Template) -> CreateTask:
        """The task that it comes to with the template as it is. Raises InvalidFieldError."""
        return CreateTask(
            task_id=self.task_id,
            target=self.target,
            command="",
            argv=template.filled(self.parameters),
            timeout=template.timeout,
            user=template.user,
            env=template.env,
            cwd=template.cwd,
            when_offline=self.when_offline,
            expires_in=self.expires_in,
            reason=self.reason,
            preview_id=self.preview_id,
            rollout=self.rollout,
            template=template.name,
            template_seq=template.seq,
            parameters=self.parameters,
            asked_sha256=self.sha256,
        )


@dataclass(slots=True)
class TemplateState:
    """All templates by name, as the signed events say; `apply` is the only way in."""

    templates: dict[str, Template] = field(default_factory=dict)
    _changed: dict[str, int] = field(default_factory=dict)  # the last event of each name, also of those that are gone

    def apply(self, event: Event, seq: int) -> bool:
        """Take one event in; False where it does not follow from what stands (a copy of an old one, say)."""
        match event:
            case TemplateCreated(name=name):
                if event.based_on != self.changed_seq(name) or name in self.templates:
                    return False
                try:
                    self.templates[name] = _template_of(event, seq)
                except RefusedError:  # of a later release, whose templates can do more
                    return False
                self._changed[name] = seq
            case TemplateDeleted(name=name):
                if name not in self.templates or event.based_on != self.changed_seq(name):
                    return False
                del self.templates[name]
                self._changed[name] = seq
        return True

    def changed_seq(self, name: str) -> int:
        return self._changed.get(name, 0)

    def template(self, name: str) -> Template:
        """Raises NotFoundError where there is none."""
        template = self.templates.get(name)
        if template is None:
            raise NotFoundError("unknown_template", "there is no such template")
        return template

    def still_is(self, name: str | None, seq: int | None) -> bool:
        """Whether that template is still what it was, or there is none to ask about."""
        return name is None or (name in self.templates and self.templates[name].seq == seq)


def is_template_name(text: str) -> bool:
    return _TEMPLATE.fullmatch(text) is not None


def parse_template(value: Mapping[str, Json], *, seq: int = 0) -> Template:
    """What somebody says that a template is.

    Raises:
        InvalidFieldError: naming the field.
    """
    if unknown := sorted(value.keys() - _FIELDS):
        raise invalid(unknown[0][:64], "a field that there is")
    name, user, description = value.get("name"), value.get("user"), value.get("description")
    if not isinstance(name, str) or not is_template_name(name):
        raise invalid("name", "a lower-case letter, then at most 63 of a-z 0-9 _ -")
    if not isinstance(user, str) or not is_account(user):
        raise invalid("user", "the name of an account")
    parameters = _parameters(value.get("parameters", []))
    timeout, cwd, env = value.get("timeout"), value.get("cwd"), value.get("env")
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        raise invalid("timeout", "a whole number")
    if description is not None and not isinstance(description, str):
        raise invalid("description", "a text")
    return Template(
        name=name,
        argv=_argv(value.get("argv"), parameters),
        parameters=parameters,
        user=user,
        timeout=checked_number("timeout", timeout, least=1, most=MAX_TIMEOUT_S),
        cwd=None if cwd is None else checked_path("cwd", cwd),
        env=_environment(env) if env else None,
        description=None if description is None else checked_line("description", description),
        seq=seq,
    )


def decide_template(state: TemplateState, template: Template) -> TemplateCreated:
    """Raises RefusedError `template_exists`, `too_many_templates`."""
    if template.name in state.templates:
        raise RefusedError("template_exists", f"there is a template {template.name}; delete it first")
    if len(state.templates) >= MAX_TEMPLATES:
        raise RefusedError("too_many_templates", f"there are {MAX_TEMPLATES} templates already")
    return TemplateCreated(
        name=template.name,
        based_on=state.changed_seq(template.name),
        argv=template.argv,
        parameters=tuple(parameter.to_json() for parameter in template.parameters),
        user=template.user,
        timeout=template.timeout,
        cwd=template.cwd,
        env=template.env,
        description=template.description,
    )


def decide_delete_template(state: TemplateState, name: str) -> TemplateDeleted:
    """Raises NotFoundError."""
    return TemplateDeleted(name=name, based_on=state.template(name).seq)


def _template_of(event: TemplateCreated, seq: int) -> Template:
    said: dict[str, Json] = {
        "name": event.name,
        "argv": list(event.argv),
        "parameters": [dict(parameter) for parameter in event.parameters],
        "user": event.user,
        "timeout": event.timeout,
        "cwd": event.cwd,
        "env": None if event.env is None else dict(event.env),
        "description": event.description,
    }
    return parse_template(said, seq=seq)


def _parameters(value: Json) -> tuple[Parameter, ...]:
    if not isinstance(value, list) or len(value) > MAX_PARAMETERS:
        raise invalid("parameters", f"a list of at most {MAX_PARAMETERS}")
    parsed = tuple(parse_parameter(f"parameters.{n}", each) for n, each in enumerate(value))
    if len({parameter.name for parameter in parsed}) != len(parsed):
        raise invalid("parameters", "of different names")
    return parsed


def _argv(value: Json, parameters: tuple[Parameter, ...]) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ARGUMENTS:
        raise invalid("argv", f"a list of 1 to {MAX_ARGUMENTS} texts")
    argv = tuple(argument for argument in value if isinstance(argument, str))
    if len(argv) != len(value) or any(len(text) > MAX_ARGUMENT or "\0" in text for text in argv):
        raise invalid("argv", f"of texts that have at most {MAX_ARGUMENT} characters and no NUL")
    program, *arguments = argv
    checked_path("argv.0", program)
    if _PLACE.search(program) or program.endswith("/"):
        raise invalid("argv.0", "the absolute path of a program, without parameters")
    if program.rpartition("/")[2] in SHELLS:
        raise invalid("argv.0", "other than a shell or env: name the program itself, or a script by its path")
    places = {place[1] for argument in arguments for place in _PLACE.finditer(argument)}
    if places != (names := {parameter.name for parameter in parameters}):
        raise invalid("argv", f"made with all parameters, and no others: {', '.join(sorted(places ^ names))}")
    return argv


def _environment(value: Json) -> Mapping[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_VARIABLES:
        raise invalid("env", f"an object of at most {MAX_VARIABLES} texts")
    try:
        checked = Fields({"env": value}).environment("env")
    except MalformedMessageError as error:
        raise invalid("env", f"an environment: {error.reason}") from error
    if unsafe := sorted(name for name in checked if _UNSAFE.fullmatch(name.upper())):
        raise invalid("env", f"free of what makes programs load something else: {', '.join(unsafe)}")
    return checked
