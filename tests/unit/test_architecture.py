"""The rules of the house that import-linter cannot say. Each is tried on a violation that is planted for it."""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

from control_plane.events.registry import CLASSES
from control_plane.projections.every import PROJECTIONS

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("control_plane", "control_plane_agent", "control_plane_wire", "cpctl")
MOST_LINES: Final = 450  # "about 400": a long table of one kind of thing is fine

CLOCK: Final = "control_plane_wire/clock.py"
ENVIRONMENT: Final = frozenset(
    {
        "control_plane/settings.py",
        "control_plane_agent/settings.py",
        "control_plane_agent/cli.py",  # hands os.environ, whole, to its settings
        "cpctl/cli.py",  # and this one to its commands
    }
)
WALL_CLOCK: Final = frozenset(
    {"time", "time_ns", "CLOCK_REALTIME", "localtime", "gmtime", "ctime", "asctime", "strftime"}
)
NOW: Final = frozenset({"now", "utcnow", "today"})
# Where an HMAC hides, beside the module of that name.
HMAC_INSIDE: Final = re.compile(
    r"(Multi)?Fernet|HKDF\w*|PBKDF2\w*|pbkdf2_hmac|[Ss]crypt|ConcatKDFHMAC|KBKDFHMAC|[HT]OTP"
    r"|SessionMiddleware|itsdangerous|HS(256|384|512)"
)
SHELLS: Final = {
    "os": frozenset({"system", "popen"}),
    "subprocess": frozenset({"getoutput", "getstatusoutput"}),
    "asyncio": frozenset({"create_subprocess_shell"}),
    "pty": frozenset({"spawn"}),
}
DRIVERS: Final = {
    "aiomysql": "control_plane/storage/mysql.py",
    "pymysql": "control_plane/storage/mysql.py",
    "aiosqlite": "control_plane/storage/sqlite.py",
    "sqlite3": "control_plane/storage/sqlite.py",
}
# They run under `python -I -S`, where nothing is installed.
BARE: Final = tuple(
    f"control_plane_agent/{stem}.py"
    for stem in (
        *("launcher", "supervisor", "child", "containment", "cgroups", "processes"),
        *("disk", "output", "slots", "__init__"),
    )
)


@dataclass(frozen=True)
class Module:
    """One file of ours: its path in the repository, and what is in it."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    def imports(self) -> Iterator[str]:
        """The full names that it imports: of `from a import b` both a and a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or ""
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def attributes(self) -> Iterator[tuple[str, str]]:
        """What is used of which name: `time.time()` is ("time", "time"), and so is what was imported from time."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                yield ast.unparse(node.value), node.attr
            elif isinstance(node, ast.ImportFrom):
                yield from (((node.module or "").rpartition(".")[2], alias.name) for alias in node.names)


MODULES: Final = [
    Module(str(path.relative_to(ROOT)), path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
]


# --- the rules: each gives what is wrong in a module


def starts_a_task_outside_a_group(module: Module) -> Iterator[str]:
    groups = {
        ast.unparse(item.optional_vars)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if item.optional_vars is not None and ast.unparse(item.context_expr) == "asyncio.TaskGroup()"
    }
    for owner, name in module.attributes():
        if name == "create_task" and owner not in groups:
            yield f"{owner}.create_task: a TaskGroup starts tasks"


def asks_for_the_wall_clock(module: Module) -> Iterator[str]:
    if module.path == CLOCK:
        return
    for owner, name in module.attributes():
        if owner == "time" and name in WALL_CLOCK:
            yield f"time.{name}: the clock is a parameter"
        if owner.rpartition(".")[2] in {"datetime", "date"} and name in NOW:
            yield f"{owner}.{name}: the clock is a parameter"


def reads_the_environment(module: Module) -> Iterator[str]:
    if module.path in ENVIRONMENT:
        return
    for owner, name in module.attributes():
        if owner == "os" and name in {"environ", "environb", "getenv", "getenvb"}:
            yield f"os.{name}: settings are handed down"


def uses_hmac(module: Module) -> Iterator[str]:
    for name in module.imports():
        if any(part.lower() == "hmac" for part in name.split(".")):
            yield f"{name}: messages are signed by Ed25519, and nothing else"


def uses_what_hides_an_hmac(module: Module) -> Iterator[str]:
    names = {part for name in module.imports() for part in name.split(".")}
    names |= {name for _, name in module.attributes()}
    names |= {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
    names |= {
        node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant) and type(node.value) is str
    }
    for name in sorted(names):
        if HMAC_INSIDE.fullmatch(name):
            yield f"{name}: there is an HMAC in it"


def starts_a_shell(module: Module) -> Iterator[str]:
    """A line of text that some shell reads. What hosts run is theirs: the agent hands it to execve as one argument."""
    for owner, name in module.attributes():
        if name in SHELLS.get(owner, ()):
            yield f"{owner}.{name}: no shell reads what this program puts together"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False":
            yield "shell=: no shell reads what this program puts together"


def has_a_driver_that_is_not_its_own(module: Module) -> Iterator[str]:
    for name in module.imports():
        home = DRIVERS.get(name.partition(".")[0])
        if home not in {None, module.path}:
            yield f"{name}: only {home} knows it"


def is_a_package_that_does_something(module: Module) -> Iterator[str]:
    if PurePosixPath(module.path).name == "__init__.py" and module.text:
        yield "an __init__.py is empty: importing has no side effects"


def is_too_long(module: Module) -> Iterator[str]:
    if (lines := len(module.text.splitlines())) > MOST_LINES:
        yield f"{lines} lines: are there two ideas in it?"


def needs_what_is_not_there(module: Module) -> Iterator[str]:
    if module.path not in BARE:
        return
    bare = {PurePosixPath(path).with_suffix("").as_posix().replace("/", ".") for path in BARE}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "control_plane_agent":
            names = [f"control_plane_agent.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            if name not in bare and name.partition(".")[0] not in sys.stdlib_module_names:
                yield f"{name}: it runs under python -I -S"


Rule = Callable[[Module], Iterator[str]]
ANYWHERE: Final = "control_plane/api/x.py"
PLANTED: Final[list[tuple[Rule, str, str]]] = [
    (starts_a_task_outside_a_group, ANYWHERE, "import asyncio\nasyncio.create_task(f())"),
    (starts_a_task_outside_a_group, ANYWHERE, "from asyncio import create_task"),
    (starts_a_task_outside_a_group, ANYWHERE, "loop = asyncio.get_running_loop()\nloop.create_task(f())"),
    (starts_a_task_outside_a_group, ANYWHERE, "asyncio.get_running_loop().create_task(f())"),
    (asks_for_the_wall_clock, ANYWHERE, "import time\nnow = time.time()"),
    (asks_for_the_wall_clock, ANYWHERE, "from time import time_ns"),
    (asks_for_the_wall_clock, ANYWHERE, "import time\nnow = time.strftime('%H')"),
    (asks_for_the_wall_clock, ANYWHERE, "import time\nnow = time.clock_gettime(time.CLOCK_REALTIME)"),
    (asks_for_the_wall_clock, ANYWHERE, "from datetime import UTC, datetime\nnow = datetime.now(UTC)"),
    (asks_for_the_wall_clock, ANYWHERE, "import datetime\nnow = datetime.datetime.now(tz)"),
    (asks_for_the_wall_clock, ANYWHERE, "from datetime import date\ntoday = date.today()"),
    (reads_the_environment, ANYWHERE, "import os\nx = os.environ['X']"),
    (reads_the_environment, ANYWHERE, "import os\nx = os.getenv('X')"),
    (reads_the_environment, ANYWHERE, "from os import environ"),
    (uses_hmac, ANYWHERE, "import hmac"),
    (uses_hmac, ANYWHERE, "from hmac import compare_digest"),
    (uses_hmac, ANYWHERE, "from cryptography.hazmat.primitives.hmac import HMAC"),
    (uses_hmac, ANYWHERE, "from cryptography.hazmat.primitives import hmac"),
    *(
        (uses_what_hides_an_hmac, ANYWHERE, text)
        for text in (
            "from cryptography.fernet import Fernet",
            "from cryptography.fernet import MultiFernet as Box",
            "from cryptography import fernet\nfernet.Fernet(key)",
            "from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand",
            "from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC",
            "from cryptography.hazmat.primitives.kdf.scrypt import Scrypt",
            "from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHMAC",
            "from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC",
            "from cryptography.hazmat.primitives.twofactor.totp import TOTP",
            "from cryptography.hazmat.primitives.twofactor.hotp import HOTP",
            "from starlette.middleware.sessions import SessionMiddleware",
            "from itsdangerous import Signer",
            "import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 1)",
            "import hashlib\nhashlib.scrypt(b'')",
            "from hashlib import scrypt",
            "jwt.encode({}, key, algorithm='HS256')",
            "ALGORITHMS = ['HS384', 'HS512']",
        )
    ),
    *(
        (starts_a_shell, ANYWHERE, text)
        for text in (
            "import subprocess\nsubprocess.run('id', shell=True)",
            "import subprocess\nsubprocess.run('id', shell=anything)",
            "import os\nos.system('id')",
            "import os\nos.popen('id')",
            "from os import system",
            "import subprocess\nsubprocess.getoutput('id')",
            "import asyncio\nasyncio.create_subprocess_shell('id')",
            "from asyncio import create_subprocess_shell as run",
        )
    ),
    (has_a_driver_that_is_not_its_own, ANYWHERE, "import aiomysql"),
    (has_a_driver_that_is_not_its_own, "control_plane/storage/sqlite.py", "from pymysql.err import Error"),
    (is_a_package_that_does_something, "control_plane/x/__init__.py", "from control_plane.x.y import z\n"),
    (is_too_long, ANYWHERE, "x = 1\n" * (MOST_LINES + 1)),
    (needs_what_is_not_there, "control_plane_agent/supervisor.py", "import orjson"),
    (needs_what_is_not_there, "control_plane_agent/child.py", "from control_plane_wire.clock import Clock"),
    (needs_what_is_not_there, "control_plane_agent/launcher.py", "from control_plane_agent import journal"),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in PLANTED), ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule: Rule) -> None:
    assert len(MODULES) > 100

    assert [f"{module.path}: {what}" for module in MODULES for what in rule(module)] == []


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (
            starts_a_task_outside_a_group,
            ANYWHERE,
            "async def f():\n  async with asyncio.TaskGroup() as group:\n    group.create_task(g())",
        ),
        (asks_for_the_wall_clock, CLOCK, "import time\nnow = time.time()"),
        (asks_for_the_wall_clock, ANYWHERE, "import time\nsince = time.monotonic()"),
        (asks_for_the_wall_clock, ANYWHERE, "now = clock.now_us()"),
        (reads_the_environment, "control_plane_agent/settings.py", "import os\nx = os.environ"),
        (uses_what_hides_an_hmac, ANYWHERE, "from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash"),
        (uses_what_hides_an_hmac, ANYWHERE, "import secrets\nsecrets.compare_digest(a, b)"),
        (starts_a_shell, ANYWHERE, "import subprocess\nsubprocess.run(['id'], shell=False)"),
        (has_a_driver_that_is_not_its_own, "control_plane/storage/mysql.py", "import aiomysql"),
        (is_a_package_that_does_something, "control_plane/x/__init__.py", ""),
        (
            needs_what_is_not_there,
            "control_plane_agent/launcher.py",
            "import os\nfrom control_plane_agent import child",
        ),
        (needs_what_is_not_there, "control_plane_agent/journal.py", "import orjson"),
    ],
)
def test_what_the_rule_allows_is_not_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Module(path, text))) == []


def test_every_exception_of_a_rule_is_a_file_that_is_there() -> None:
    named = {CLOCK, *ENVIRONMENT, *DRIVERS.values(), *BARE}

    assert named <= {module.path for module in MODULES}


def test_no_hmac_is_computed_in_the_browser() -> None:
    scripts = sorted((ROOT / "ui" / "js").rglob("*.js"))

    assert scripts
    assert [path.name for path in scripts if "hmac" in path.read_text().lower()] == []


# --- one noun, one file stem in every room


def rooms_without(nouns: dict[str, str], there: set[str]) -> list[str]:
    """The files that a noun should have and has not; `nouns` tells where each comes from."""
    rooms = {
        "events": ("commands/{}.py", "commands/handlers/{}.py", "api/{}.py"),
        "projections": ("projections/{}.py", "projections/queries/{}.py", "api/{}.py"),
    }
    wanted = (f"control_plane/{room.format(noun)}" for noun, origin in nouns.items() for room in rooms[origin])
    return [path for path in wanted if path not in there]


def test_a_noun_has_the_same_stem_in_every_room() -> None:
    there = {module.path for module in MODULES}
    events = {cls.__module__.rpartition(".")[2] for cls in CLASSES}
    shown = {projection.name: projection.__module__.rpartition(".")[2] for projection in PROJECTIONS}

    assert events == {
        *("tasks", "rollouts", "hosts", "enrolment", "secrets"),
        *("access", "passkeys", "rules", "stop", "templates", "approvals"),
    }
    assert all(name == stem for name, stem in shown.items())
    assert rooms_without(dict.fromkeys(events, "events"), there) == []
    assert rooms_without(dict.fromkeys(shown, "projections"), there) == []


def test_a_noun_without_its_file_in_a_room_is_found() -> None:
    there = {module.path for module in MODULES} - {"control_plane/commands/handlers/tasks.py"}

    assert rooms_without({"tasks": "events"}, there) == ["control_plane/commands/handlers/tasks.py"]
    assert rooms_without({"jobs": "projections"}, there)


def test_tests_of_a_room_are_where_the_room_is() -> None:
    """`tests/unit/<room>/` mirrors the rooms of the packages."""
    rooms = {path.name for package in PACKAGES for path in (ROOT / package).iterdir() if path.is_dir()}
    rooms |= {package.removeprefix("control_plane_") for package in PACKAGES}

    tested = {path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir()} - {"__pycache__"}

    assert tested <= rooms
