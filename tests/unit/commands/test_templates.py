"""Whatever is given for a parameter stays one argument and is no option; and a change changes nothing accepted."""

import shlex
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.commands.access import Principal
from control_plane.commands.parameters import MAX_CHARACTERS, checked_text
from control_plane.commands.retries import RetryTask
from control_plane.commands.rules import ForbiddenError
from control_plane.commands.targets import All, Group, OneHost
from control_plane.commands.tasks import message_of, verify_authorisation
from control_plane.commands.templates import (
    MAX_TEMPLATES,
    RunTemplate,
    Template,
    TemplateState,
    decide_template,
    parse_template,
)
from control_plane.errors import InvalidFieldError, KeyConflictError, NotAllowedError, NotFoundError, RefusedError
from control_plane.events.tasks import TaskAccepted
from control_plane.events.templates import TemplateCreated, TemplateDeleted
from control_plane_wire.signing import SigningKey
from tests.support.fleet import ADMIN, OPERATOR, PASSWORD, VIEWER, Desk, a_registration, a_request
from tests.unit.commands.test_rules import a_rule

SOMEBODY: Final = SigningKey.from_bytes(b"\x66" * 32)
ANN: Final = Principal(username="ann", role="viewer", address="127.0.0.1")
PARAMETERS: Final[list[dict[str, Any]]] = [
    {"name": "unit", "type": "name"},
    {"name": "mode", "type": "choice", "choices": ["fast", "--force"]},
    {"name": "lines", "type": "integer", "min": 1, "max": 500},
    {"name": "file", "type": "path", "prefix": "/srv/app"},
    {"name": "note", "type": "text", "max_length": 40},
]
SAID: Final[dict[str, Any]] = {
    "name": "restart",
    "argv": ["/usr/bin/run", "{unit}", "{mode}", "-n{lines}", "{file}", "note={note}", "{}", "{unit}.service"],
    "parameters": PARAMETERS,
    "user": "deploy",
    "timeout": 60,
    "env": {"LANG": "C.UTF-8"},
    "cwd": "/srv",
}
RIGHT: Final[dict[str, Any]] = {"unit": "nginx", "mode": "--force", "lines": 7, "file": "/srv/app/x", "note": "a b"}


def a_template(**given: Any) -> Template:
    return parse_template({**SAID, **given})


def simple(name: str = "up", **given: Any) -> Template:
    return a_template(name=name, **{"argv": ["/usr/bin/uptime"], "parameters": [], **given})


def use(task_id: str = "t1", template: str = "restart", **given: Any) -> RunTemplate:
    asked: dict[str, Any] = {"target": All(), "parameters": RIGHT, "expires_in": 600, **given}
    return RunTemplate(task_id=task_id, template=template, **asked)


# --- what is given for a parameter

HOSTILE: Final = [
    "; rm -rf /",
    "a; rm -rf /",
    "a && reboot",
    "a || reboot",
    "a | sh",
    "a & b",
    "$(reboot)",
    "`reboot`",
    "${IFS}reboot",
    "$HOME",
    "a > /etc/passwd",
    "a < /etc/shadow",
    "a\nreboot",
    "a\r\nreboot",
    "a\0b",
    "\0",
    "a\tb",
    "a\x1b[2Jb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "-rf",
    "--option",
    "+!reboot",
    "@/etc/passwd",
    "--option=/etc/shadow",
    "-",
    "--",
    "\u2010rf",
    "\u2013-rf",
    "\u2212rf",
    "\uff0drf",
    " --option",
    "\u00a0--option",
    "../../etc/shadow",
    "/srv/app/../../etc/shadow",
    "/srv/app/..",
    "/srv/app-evil/x",
    "/srv/appx",
    "/srv",
    "//srv/app",
    "/etc/shadow",
    "srv/app/x",
    "~/x",
    "file:///srv/app/x",
    "\\\\host\\share",
    "a\u202eb",
    "a\u2066b",
    "a\u200bb",
    "a\ufeffb",
    "a\u00adb",
    "\ud800",
    "a\U000e0041b",
    "\ue000",
    "'",
    '"',
    "a'b",
    'a"b',
    "a\\",
    "{unit}",
    "{note}",
    "{{unit}}",
    "%s%n",
    "*",
    "?",
    "[a-z]",
    "a b",
    "",
    " ",
    "x" * 41,
    "x" * 100_000,
    "nginx.service --now",
    "@/etc/shadow",
    "\u0430dmin" * 20,
    "NGINX;",
    "fast ",
    "FAST",
]
OTHER: Final[list[Any]] = [None, True, 1.5, -1, 0, 501, 2**53, "7", ["a"], {"a": 1}, [], float("inf")]


def outcome(values: dict[str, Any]) -> tuple[tuple[str, ...] | None, str | None]:
    """The argv, or the field that is refused."""
    try:
        return a_template().filled(values), None
    except InvalidFieldError as refused:
        return None, refused.field


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("value", [*HOSTILE, *OTHER], ids=lambda value: ascii(value)[:24])
def test_a_hostile_value_is_refused_by_its_name_or_stays_one_argument(name: str, value: Any) -> None:
    argv, refused = outcome({**RIGHT, name: value})
    if argv is None:
        assert refused == f"parameters.{name}"
        return

    assert name in {"note", "file", "unit"}  # what is not a fixed set may be strange, but then it is just text
    assert isinstance(value, str)
    expected = [text.replace("{" + name + "}", value) for text in SAID["argv"]]
    for other in RIGHT.keys() - {name}:
        place = "{" + other + "}"
        expected = [
            text.replace(place, str(RIGHT[other])) if place in SAID["argv"][n] else text
            for n, text in enumerate(expected)
        ]
    assert list(argv) == expected
    assert shlex.split(shlex.join(argv)) == expected
    assert not argv[1].startswith("-")
    assert not any("\0" in text or "\n" in text for text in argv)


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 50
    assert len(set(HOSTILE)) == len(HOSTILE)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:24])
def test_a_name_and_a_path_below_a_prefix_take_none_of_these(value: str) -> None:
    for name in ("unit", "file", "mode"):
        if name == "unit" and value in {"x" * 41, "FAST"}:  # names like any other
            continue
        with pytest.raises(InvalidFieldError):
            a_template().filled({**RIGHT, name: value})


@given(value=st.text())
def test_any_text_that_is_taken_is_in_its_argument_as_it_is(value: str) -> None:
    try:
        argv = a_template().filled({**RIGHT, "note": value})
    except InvalidFieldError:
        return
    assert argv[5] == f"note={value}"
    assert len(argv) == len(SAID["argv"])


def test_values_are_put_in_once_and_a_value_that_looks_like_a_place_is_none() -> None:
    assert a_template().filled({**RIGHT, "note": "{unit}"})[5] == "note={unit}"
    assert a_template().filled(RIGHT) == (
        *("/usr/bin/run", "nginx", "--force", "-n7", "/srv/app/x", "note=a b", "{}", "nginx.service"),
    )


@pytest.mark.parametrize("values", [{}, {**RIGHT, "more": "x"}, {name: RIGHT[name] for name in ("unit", "mode")}])
def test_each_parameter_is_needed_and_no_other(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        a_template().filled(values)
    assert refused.value.field == "parameters"


# --- what is no template


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "Restart"}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": None}, "name"),
        ({"user": "0"}, "user"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": "60"}, "timeout"),
        ({"cwd": "srv"}, "cwd"),
        ({"cwd": "/srv/../etc"}, "cwd"),
        ({"description": "a\nb"}, "description"),
        ({"stdin": "x"}, "stdin"),
        ({"argv": []}, "argv"),
        ({"argv": "/usr/bin/run"}, "argv"),
        ({"argv": ["/usr/bin/run", 7]}, "argv"),
        ({"argv": ["/usr/bin/run", "a\0"]}, "argv"),
        ({"argv": ["run", *SAID["argv"][1:]]}, "argv.0"),
        ({"argv": ["/usr/bin/{unit}", *SAID["argv"][1:]]}, "argv.0"),
        ({"argv": ["{file}", *SAID["argv"][1:]]}, "argv.0"),
        ({"argv": ["/usr/bin/../bin/run", *SAID["argv"][1:]]}, "argv.0"),
        *(
            ({"argv": [program, "-c", *SAID["argv"][1:]]}, "argv.0")
            for program in ("/bin/sh", "/bin/bash", "/usr/bin/zsh", "/usr/bin/env", "/bin/busybox", "/bin/dash")
        ),
        ({"argv": ["/usr/bin/run", "{unit}"]}, "argv"),
        ({"argv": [*SAID["argv"], "{other}"]}, "argv"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": [PARAMETERS[0]] * 2}, "parameters"),
        ({"parameters": ["unit"]}, "parameters.0"),
        ({"parameters": [{"name": "a-b", "type": "name"}]}, "parameters.0.name"),
        ({"parameters": [{"name": "a", "type": "regex"}]}, "parameters.0.type"),
        ({"parameters": [{"name": "a", "type": ["name"]}]}, "parameters.0.type"),
        ({"parameters": [{"name": "a", "type": "text", "pattern": "(a+)+$"}]}, "parameters.0.pattern"),
        ({"parameters": [{"name": "a", "type": "name", "choices": ["x"]}]}, "parameters.0.choices"),
        ({"parameters": [{"name": "a", "type": "choice"}]}, "parameters.0.choices"),
        ({"parameters": [{"name": "a", "type": "choice", "choices": []}]}, "parameters.0.choices"),
        ({"parameters": [{"name": "a", "type": "choice", "choices": ["x", "x"]}]}, "parameters.0.choices"),
        ({"parameters": [{"name": "a", "type": "choice", "choices": ["x\ny"]}]}, "parameters.0.choices"),
        ({"parameters": [{"name": "a", "type": "choice", "choices": [1]}]}, "parameters.0.choices"),
        ({"parameters": [{"name": "a", "type": "integer", "min": -1}]}, "parameters.0.min"),
        ({"parameters": [{"name": "a", "type": "integer", "min": 5, "max": 4}]}, "parameters.0.max"),
        ({"parameters": [{"name": "a", "type": "integer", "max": "9"}]}, "parameters.0.max"),
        ({"parameters": [{"name": "a", "type": "path", "prefix": "srv"}]}, "parameters.0.prefix"),
        ({"parameters": [{"name": "a", "type": "path", "prefix": "/srv/../etc"}]}, "parameters.0.prefix"),
        ({"parameters": [{"name": "a", "type": "text", "max_length": MAX_CHARACTERS + 1}]}, "parameters.0.max_length"),
        ({"env": ["a"]}, "env"),
        ({"env": {"A B": "x"}}, "env"),
        ({"env": {"A": 1}}, "env"),
        *(
            ({"env": {name: "x"}}, "env")
            for name in (
                *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "ld_preload", "BASH_ENV", "ENV", "PATH", "IFS"),
                *("PYTHONPATH", "PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYOPT", "NODE_OPTIONS", "GIT_SSH_COMMAND"),
                *("SHELLOPTS", "PS4", "PROMPT_COMMAND", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "GCONV_PATH", "PAGER"),
                *("EDITOR", "LESSOPEN", "CDPATH", "GLIBC_TUNABLES", "DYLD_INSERT_LIBRARIES", "BASH_FUNC_ls"),
            )
        ),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_template_is_refused_and_the_field_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidFieldError) as refused:
        a_template(**given)
    assert refused.value.field == field


def test_a_template_comes_back_as_it_was() -> None:
    state, template = TemplateState(), a_template(description="so")

    assert state.apply(decide_template(state, template), 7)

    assert state.templates == {"restart": parse_template({**SAID, "description": "so"}, seq=7)}


def test_a_name_is_free_again_when_its_template_is_gone_and_no_copy_brings_one_back() -> None:
    state = TemplateState()
    first = decide_template(state, simple())
    assert state.apply(first, 1)
    assert not state.apply(first, 2)
    with pytest.raises(RefusedError) as refused:
        decide_template(state, simple())
    assert refused.value.code == "template_exists"
    gone = TemplateDeleted(name="up", based_on=1)
    assert state.apply(gone, 3)
    assert not state.apply(first, 4)
    assert not state.apply(gone, 5)
    second = decide_template(state, simple(argv=["/usr/bin/id"]))
    assert second.based_on == 3
    assert state.apply(second, 6)
    assert not state.apply(gone, 7)
    assert state.template("up").argv == ("/usr/bin/id",)


def test_there_are_only_so_many() -> None:
    full = TemplateState(templates={f"t{n}": simple(f"t{n}") for n in range(MAX_TEMPLATES)})
    with pytest.raises(RefusedError) as refused:
        decide_template(full, simple())
    assert refused.value.code == "too_many_templates"


def test_a_signed_template_that_this_release_does_not_understand_is_none() -> None:
    event = TemplateCreated(
        name="x", based_on=0, argv=("/bin/x",), parameters=({"name": "a", "type": "secret"},), user="root", timeout=1
    )
    assert not TemplateState().apply(event, 1)


# --- at work


async def a_desk() -> Desk:
    """web1, web2 and db1; the viewer ann, who may run `restart` on the web servers; and that template."""
    desk = Desk()
    for name, group in (("web1", "web"), ("web2", "web"), ("db1", "db")):
        await desk.handling.record(a_registration(name, group), actor="root")
    await desk.access.create_user(ADMIN, "ann", role="viewer", password=PASSWORD)
    await desk.templates.create(ADMIN, a_template())
    rule = a_rule(groups={"web"}, command="template", templates={"restart"})
    await desk.rules.create(ADMIN, rule)
    return desk


def accepted(desk: Desk, seq: int) -> TaskAccepted:
    return verify_authorisation(desk.log.rows[seq - 1], desk.keyring.public_keys)


async def test_a_viewer_runs_just_the_template_of_the_rule_on_its_hosts() -> None:
    desk = await a_desk()
    await desk.templates.create(ADMIN, simple())

    made = await desk.tasks.create(ANN, use(target=Group("web")))
    task = accepted(desk, made.seq)

    assert (task.request["template"], task.request["parameters"]) == ("restart", RIGHT)
    assert task.request["template_seq"] == desk.authority.templates.template("restart").seq
    message = message_of(task)
    assert message.argv == a_template().filled(RIGHT)
    assert (message.user, message.timeout, message.cwd) == ("deploy", 60, "/srv")
    assert (message.env, message.command) == (SAID["env"], shlex.join(a_template().filled(RIGHT)))
    for asked in (
        use("t2"),
        use("t3", "up", target=Group("web"), parameters={}),
        a_request("t4", Group("web"), user="deploy", argv=a_template().filled(RIGHT), command=""),
        a_request("t5", Group("web"), user="deploy"),
    ):
        with pytest.raises(ForbiddenError):
            await desk.tasks.create(ANN, asked)


async def test_a_later_change_of_the_template_changes_nothing_accepted() -> None:
    desk = await a_desk()
    asked = use(target=Group("web"))
    first = await desk.tasks.create(ANN, asked)
    before = desk.log.rows[first.seq - 1]
    await desk.templates.delete(ADMIN, "restart")

    assert (await desk.tasks.create(ANN, asked)).seq == first.seq
    with pytest.raises(NotFoundError):
        await desk.tasks.create(ANN, use("t2", target=Group("web")))
    await desk.templates.create(ADMIN, a_template(user="root"))
    assert (await desk.tasks.create(ANN, asked)).seq == first.seq
    with pytest.raises(KeyConflictError):
        await desk.tasks.create(ANN, use(target=Group("web"), parameters={**RIGHT, "lines": 8}))
    assert desk.log.rows[first.seq - 1] == before


async def test_a_retry_repeats_the_words_and_needs_more_rights_when_the_template_is_another_one() -> None:
    desk = await a_desk()
    await desk.tasks.create(ANN, use(target=Group("web")))
    desk.executions.rows["t1"] = dict.fromkeys(("web1", "web2"), "failed")

    def again(task_id: str) -> RetryTask:
        return RetryTask(task_id=task_id, retry_of="t1", states=frozenset({"failed"}))

    made = await desk.tasks.retry(ANN, again("t2"))
    assert accepted(desk, made.seq).request["template"] == "restart"
    await desk.templates.delete(ADMIN, "restart")
    with pytest.raises(ForbiddenError):
        await desk.tasks.retry(ANN, again("t3"))
    await desk.templates.create(ADMIN, a_template(user="root"))
    with pytest.raises(ForbiddenError):
        await desk.tasks.retry(ANN, again("t4"))
    made = await desk.tasks.retry(OPERATOR, again("t5"))
    assert "template" not in accepted(desk, made.seq).request
    assert accepted(desk, made.seq).request["user"] == "deploy"


async def test_a_basic_agent_would_take_it_for_a_shell_line_and_is_left_out() -> None:
    desk = Desk()
    await desk.register("web1")
    await desk.templates.create(ADMIN, simple(env={}, cwd=None))
    with pytest.raises(RefusedError) as refused:
        await desk.tasks.create(ADMIN, use(template="up", parameters={}, target=OneHost("web1")))
    assert refused.value.code == "no_host_matched"
    assert "basic agent: no template" in refused.value.detail


async def test_a_preview_of_a_template_tells_what_the_rules_say_of_it() -> None:
    desk = await a_desk()

    shown = await desk.tasks.preview_template(ANN, use(target=Group("web")))
    refused = await desk.tasks.preview_template(ANN, use())

    assert (shown.decision.allowed, shown.frozen.hosts) == (True, ("web1", "web2"))
    assert (refused.decision.allowed, list(refused.decision.refused)) == (False, ["db1"])


async def test_templates_are_made_by_administrators_and_seen_by_who_may_run_something() -> None:
    desk = await a_desk()
    for who in (OPERATOR, ANN, VIEWER):
        for act in (desk.templates.create(who, simple()), desk.templates.delete(who, "restart")):
            with pytest.raises(NotAllowedError):
                await act
    with pytest.raises(NotAllowedError):
        await desk.templates.templates(VIEWER)
    for who in (OPERATOR, ANN, ADMIN):
        assert [template.name for template in await desk.templates.templates(who)] == ["restart"]


@pytest.mark.parametrize("key", [None, SOMEBODY], ids=["unsigned", "signed by somebody"])
async def test_a_forged_template_is_none(key: SigningKey | None) -> None:
    desk = await a_desk()
    desk.insert(decide_template(TemplateState(), simple("evil", argv=["/usr/bin/evil"])), key)
    desk.insert(TemplateDeleted(name="restart", based_on=desk.authority.templates.template("restart").seq), key)
    await desk.authority.refresh()
    assert set(desk.authority.templates.templates) == {"restart"}
    assert desk.authority.refused == 2


def test_text_has_a_most() -> None:
    assert checked_text("x", "a" * 5, most=5) == "aaaaa"
