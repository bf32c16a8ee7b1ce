"""Requests made from the OpenAPI document, right ones and wrong ones, sent by each role and by nobody.

`python -m tests.fuzz.schema [--seconds N] [--seed N] [ROLE …]` does it at length. Exit status 1: something is wrong.
Everybody asks with an API token, which signing out and changing a password leave alone, and asks on: what would revoke
that token, or change who they are, is not sent.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.generation.case import Case
from schemathesis.schemas import BaseSchema

from control_plane.api.fields import MAX_SEQ
from control_plane.api.problems import CONTENT_TYPE
from control_plane.commands.access import ROLES
from control_plane.core import Core
from control_plane.events.envelope import EVENT, HEARTBEAT_EVENT
from control_plane.events.tasks import TaskAccepted
from control_plane.events.verification import Verification
from control_plane.projections.every import PROJECTIONS
from control_plane.projections.rebuild import rebuild
from tests.contract.test_api import PUBLIC
from tests.contract.test_roles import NEEDS, OF_EITHER, OF_EVERYBODY
from tests.fuzz.there import ANSWERED_S, NOBODY, There, body, named
from tests.support.bans import no_hmac
from tests.support.embedded import Embedded, an_installation

EVERYBODY: Final = (*ROLES, NOBODY)
SLOW_S: Final = 2.0  # told and not judged: it is the machine's, too
# A server's error that is none: the log is not there yet, or the broker has no accounts of its own here.
AGAIN: Final = frozenset({"read_table_behind", "backlog_full", "broker_unavailable"})
ALL: Final = ("coverage", "fuzzing", "stateful")
PASSKEYS: Final = "/api/v1/auth/passkeys"
STOP: Final = "/api/v1/stop"
STREAM: Final = "/api/v1/stream"  # does not end

# What a request that fits the description may be refused for, as the description tells these rules in words if at all:
# fields that need or exclude each other, grammars of their own, and names of what there is.
BY_CODE: Final = frozenset({"bad_at", "bad_cursor", "not_yet", "weak_password", "host_not_active"})
BY_FIELD: Final = frozenset(
    {
        *("body", "target", "hosts", "approval_id", "task_id", "parameters", "patterns", "template", "templates"),
        *("rollout", "accounts", "actions", "from", "to", "state", "user", "role", "subject", "addresses", "env"),
        *("public_key", "nonce", "proof", "new_proof", "token"),
    }
)  # These take an authenticator or an identity provider; and the stream does not end.
NOT_HERE: Final = frozenset(
    {
        "POST /api/v1/auth/passkey",
        "GET /api/v1/auth/oidc/begin",
        "GET /api/v1/auth/oidc/callback",
        f"GET {STREAM}",
    }
)

CHECKS: Final[Mapping[str, Any]] = {
    # 503 tells to try again; `every_error_is_a_problem` lets no other code pass.
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]},
    # 413: what has too many items for the description may have too many bytes, too.
    "negative_data_rejection": {
        "expected-statuses": ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "429", "503"]
    },
}


_FIXED: Final = {"extra-data-sources": {"responses": False}}


@dataclass
class Found:
    """What came of it.

    Attributes:
        succeeded: operations that were let through. `refused`: the last answer to a right request that was not.
        accepted: ids of tasks that were answered.
    """

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    succeeded: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    slow: list[str] = field(default_factory=list)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)

    def see(self, recorder: ScenarioRecorder) -> None:
        for case_id, exchange in recorder.interactions.items():
            self.requests += 1
            if (answer := exchange.response) is None:
                self.wrong[recorder.label, "no answer"] = f"{exchange.request.method} {exchange.request.uri}"
                continue
            self.statuses[answer.status_code] += 1
            if answer.elapsed > SLOW_S:
                self.slow.append(f"{exchange.request.method} {exchange.request.uri[:200]}: {answer.elapsed:.1f} s")
            if case_id in recorder.cases:
                self._judge(recorder.cases[case_id].value, answer)
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.status is not Status.SUCCESS:
                    told = _told(check.failure_info and check.failure_info.failure, recorder, case_id)
                    self.wrong.setdefault((recorder.cases[case_id].value.operation.label, check.name), told)

    def _judge(self, case: Case, answer: Response) -> None:
        if answer.status_code < 300:
            self.succeeded.add(case.operation.label)
        elif _is_right(case) and answer.status_code != 401:  # which is the check that credentials are looked at
            self.refused[case.operation.label] = f"{answer.status_code} {answer.content[:500]!r}"


def _is_right(case: Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def _told(failure: Failure | None, recorder: ScenarioRecorder, case_id: str) -> str:
    exchange = recorder.interactions[case_id]
    request, answer = exchange.request, exchange.response
    body = (request.body or b"")[:500]
    status = "no answer" if answer is None else f"{answer.status_code} {answer.content[:500]!r}"
    said = "the check failed" if failure is None else f"{failure.title}: {failure.message[:500]}"
    return f"{said}\n  {request.method} {request.uri[:500]} {body!r}\n  {status}"


@schemathesis.check
def every_error_is_a_problem(_ctx: object, response: Response, _case: Case) -> None:
    if response.status_code >= 400:
        assert response.headers.get("content-type") == [CONTENT_TYPE], response.headers
        told = response.json()
        assert told["status"] == response.status_code
        assert isinstance(told["code"], str)
        assert told["request_id"] == response.headers["x-request-id"][0]
        if response.status_code >= 500:
            assert told["code"] in AGAIN


def may(role: str) -> frozenset[str]:
    """The operations that a token of that role is let through, the public ones among them."""
    free = {f"{method} {path}" for method, path in PUBLIC}
    if role == NOBODY:
        return frozenset(free)
    its = ROLES[role]
    theirs = {route for route, needed in NEEDS.items() if its.issuperset(needed.split())}
    theirs |= {route for route, either in OF_EITHER.items() if its & either}
    theirs |= OF_EVERYBODY | {("DELETE", "/tokens/{token_id}")}
    return frozenset(free | {f"{method} /api/v1{path}" for method, path in theirs})


def must(role: str) -> frozenset[str]:
    """Those of them that a right request gets through here, too."""
    return frozenset(each for each in may(role) - NOT_HERE if " /api/v1/" in each)


def ask(
    embedded: Embedded, role: str, *, seed: int, examples: int, phases: tuple[str, ...], is_thorough: bool = True
) -> Found:
    """Send what the description makes possible, as somebody of that role.

    Args:
        is_thorough: what was let through is sent without credentials and with wrong ones, too.
    """
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "workers": 1,
            "continue-on-failure": True,
            "request-timeout": ANSWERED_S,
            "base-url": embedded.url,
            "generation": {"deterministic": True, "max-examples": examples, "no-shrink": True},
            "phases": {
                # Values of earlier answers, ids among them, would make each run another one. Stateful ones need them.
                **{name: {"enabled": name in phases, **_FIXED} for name in ("examples", "coverage", "fuzzing")},
                "stateful": {
                    "enabled": "stateful" in phases,
                    "generation": {"deterministic": True, "max-examples": 4 * examples, "no-shrink": True},
                },
            },
            "checks": {**CHECKS, "ignored_auth": {"enabled": is_thorough}},
            # The address is one of {passkey_id}, too, and `Allow` says so.
            "operations": [
                {"include-path": f"{PASSKEYS}/begin", "checks": {"allow_header_conformance": {"enabled": False}}}
            ],
            **({} if role == NOBODY else {"headers": {"Authorization": f"Bearer {embedded.tokens[role]}"}}),
        }
    )
    schema = schemathesis.openapi.from_dict(embedded.description, config=config)
    schema = schema.exclude(path_regex=f"^(?!/api/v1/)|^{STREAM}$")
    with closing(There(embedded, role, may(role))) as there:
        found = Found(accepted=there.accepted)
        _hook(schema, there, found)
        for event in from_schema(schema).execute():
            match event:
                case events.ScenarioFinished():
                    found.see(event.recorder)
                case events.NonFatalError():
                    found.wrong[event.label, "error"] = str(event.info)
                case events.FatalError():
                    raise event.exception
    return found


def _hook(schema: BaseSchema, there: There, found: Found) -> None:
    embedded = there.embedded

    @schema.hook
    def filter_case(_context: object, case: Case) -> bool:
        """Whoever asks shall go on asking: nobody revokes their tokens, nor changes who they are."""
        places = case.path_parameters or {}
        is_them = str(places.get("username", "")).startswith("some-") or places.get("token_id") in embedded.token_ids
        return not (is_them and case.method.upper() in {"DELETE", "PATCH"})

    @schema.hook
    def map_case(_context: object, case: Case) -> Case:
        """Right requests name what there is, and get past the rules that the description does not tell."""
        if not _is_right(case):
            return case
        operation = case.operation.label
        if "min_seq" in (case.query or {}):
            case.query["min_seq"] = 1  # any later one is waited for
        places = named(there, operation)
        if case.path_parameters:
            case.path_parameters.update({place: places[place] for place in case.path_parameters if place in places})
        if isinstance(case.body, dict):
            given = {**case.body, **body(there, operation)}
            if operation.endswith("/accept"):
                given["hostname"] = places["hostname"]
            case.body = {name: _whole(value) for name, value in given.items() if value is not None}
        return case

    @schema.hook
    def after_call(_context: object, case: Case, response: Response) -> None:
        """What was answered is shown before anybody asks for it, as `min_seq` would have it."""
        if case.method.upper() != "GET" and response.status_code < 300 and response.content:
            answer = response.json()
            if isinstance(seq := answer.get("seq"), int):
                embedded.shown(seq)
            if isinstance(task := answer.get("task"), dict):
                found.accepted.add(task["task_id"])
            if "approval_id" in answer and "task_id" in answer:
                there.refused(answer["approval_id"])
        if case.operation.path == STOP:
            there.going_on()

    @schema.hook
    def filter_failure(_context: object, failure: Failure, _case: Case, response: Response) -> bool:
        if failure.title != "Schema-valid request rejected":
            return True
        told = response.json()
        fields = {error["field"].partition(".")[0] for error in told.get("errors", ())}
        return not (told["code"] in BY_CODE or (fields and fields <= BY_FIELD))


def _whole(value: Any) -> Any:
    """1.0 is an integer in JSON Schema, and none to us; and 2^53 is not the last one there. Both on purpose."""
    match value:
        case bool():
            return value
        case int() | float() if abs(value) > MAX_SEQ:
            return 0
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole(each) for name, each in value.items()}
        case list():
            return [_whole(each) for each in value]
    return value


def who(embedded: Embedded, role: str) -> dict[str, Any]:
    """What the API says of them now."""
    headers = {"authorization": f"Bearer {embedded.tokens[role]}"}
    me: dict[str, Any] = (
        httpx.get(f"{embedded.url}/api/v1/auth/me", headers=headers, timeout=ANSWERED_S).raise_for_status().json()
    )
    return me


def unlike(role: str, found: Found) -> list[str]:
    """Where what was let through is not what the role may, a line each."""
    missing = {each: found.refused.get(each, "never rightly asked") for each in must(role) - found.succeeded}
    beyond = found.succeeded - may(role)
    return [
        *(f"{each}: not let through: {why}" for each, why in missing.items()),
        *(f"{each}: let through" for each in beyond),
    ]


def broken(embedded: Embedded, found: Found) -> list[str]:
    """What does not hold of an installation after all that, a line each: I1 and I7, I5, I6."""
    return asyncio.run_coroutine_threadsafe(_broken(embedded.core, found), embedded.loop).result()


async def _broken(core: Core, found: Found) -> list[str]:
    said = []
    rows = await core.log.read(EVENT, after=0, kinds={TaskAccepted.KIND}, limit=1_000_000)
    if (there := {row.task_id for row in rows}) != found.accepted:
        said.append(f"tasks that were answered or recorded, not both: {sorted(map(str, there ^ found.accepted))}")
    for name in (EVENT, HEARTBEAT_EVENT):
        verification = Verification(core.database, core.log, core.checkpoints, name, None)
        report = await verification.run(progress=lambda _done, _total: None)
        said += [f"{name}: {finding}" for finding in report.findings]
    for projection in PROJECTIONS:
        compared = await rebuild(projection, core.database, core.log, then="drop")
        said += [f"{table.name} differs from a rebuild" for table in compared if not table.is_equal]
    return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test schema", description="Try the API at length, as each role.")
    parser.add_argument("--seconds", type=int, default=300, help="for each role (300)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    parser.add_argument("roles", nargs="*", metavar="role", help=f"all of them ({', '.join(EVERYBODY)})")
    given = parser.parse_args()
    if wrong := set(given.roles) - set(EVERYBODY):
        parser.error(f"no such role: {', '.join(sorted(wrong))}")
    with no_hmac():
        good = [_at_length(role, given.seconds, given.seed) for role in given.roles or EVERYBODY]
    return 0 if all(good) else 1


def _at_length(role: str, seconds: int, seed: int) -> bool:
    """Rounds of an installation each, of more examples and another seed each, until the time is over."""
    ends, examples = time.monotonic() + seconds, 10
    while True:
        with tempfile.TemporaryDirectory() as directory, an_installation(Path(directory)) as embedded:
            found = ask(embedded, role, seed=seed, examples=examples, phases=ALL)
            lines = [f"{where}: {check}: {said}" for (where, check), said in found.wrong.items()]
            lines += [*unlike(role, found), *broken(embedded, found)]
        told = f"{role}, seed {seed}: {found.requests} requests, {len(found.succeeded)} operations let through"
        print(told, *(f"slow: {each}" for each in found.slow), *lines, sep="\n", flush=True)
        if lines or time.monotonic() >= ends:
            return not lines
        seed, examples = seed + 1, examples * 2


if __name__ == "__main__":
    sys.exit(main())
