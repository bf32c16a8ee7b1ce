"""What is asked for: a command or a template for a target, or another one once more."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, StrictInt, StrictStr, model_validator

from control_plane.api.fields import Command, Line, Name, Request, Seconds, TaskId, TemplateName, Text
from control_plane.api.rollouts import Rollout
from control_plane.api.targets import Parameters, Target, is_of_template
from control_plane.commands.retries import RetryTask
from control_plane.commands.rollouts import ROLLOUT_EXPIRY_S
from control_plane.commands.secrets import Vault, check_secrets
from control_plane.commands.targets import MAX_HOSTS
from control_plane.commands.tasks import CreateTask
from control_plane.commands.templates import RunTemplate
from control_plane.errors import InvalidFieldError
from control_plane.events.tasks import TERMINAL
from control_plane_wire.messages import DEFAULT_EXPIRY_S, MAX_EXPIRY_S

End = Literal["succeeded", "failed", "timed_out", "cancelled", "rejected", "expired", "interrupted", "lost", "skipped"]


class RunCommand(Request):
    """A command for a target, or a template with the values of its parameters.

    Attributes:
        template: in place of command, argv, timeout, user, env, cwd and stdin, all of which it says.
        parameters: a value for each parameter of the template.
        approval_id: of the approval to use, where rules ask for one.
        task_id: the idempotency key, chosen by the client or else by us; the same one again is the same task.
        command: a shell line; with `argv`, which runs without a shell, it may be left out.
        timeout: seconds that it may run on a host; needed, like `user`, without a template.
        user: the account to run as.
        secrets: environment values that are kept sealed: they are told to the hosts, and to nobody without permission.
        expires_in: seconds within which a host may start it; left out, ten minutes, and with a rollout a day.
        rollout: without it, it goes to all hosts at once.
    """

    target: Target
    command: Command | None = None
    timeout: Seconds | None = None
    user: StrictStr | None = Field(None, min_length=1, max_length=64)
    template: TemplateName | None = None
    parameters: Parameters | None = None
    task_id: TaskId | None = None
    argv: Annotated[list[Text], Field(min_length=1, max_length=1024)] | None = None
    env: dict[Text, Text] | None = None
    secrets: Annotated[dict[Text, Text], Field(min_length=1)] | None = Field(None, repr=False)
    cwd: Annotated[Text, Field(min_length=1, max_length=4096)] | None = None
    stdin: StrictStr | None = None
    when_offline: Literal["queue", "skip"] = "queue"
    expires_in: Annotated[StrictInt, Field(ge=1, le=MAX_EXPIRY_S)] | None = None
    preview_id: StrictStr | None = Field(None, max_length=128)
    reason: Line | None = None
    rollout: Rollout | None = None
    approval_id: StrictStr | None = Field(None, max_length=64)

    @model_validator(mode="after")
    def _says_what_to_run(self) -> Self:
        if self.command is None and self.argv is None and self.template is None:
            raise ValueError("command, argv or template is needed")
        return self

    def decided(self, task_id: str, vault: Vault) -> CreateTask | RunTemplate:
        expires_in = self.expires_in or (ROLLOUT_EXPIRY_S if self.rollout else DEFAULT_EXPIRY_S)
        rollout = self.rollout.decided() if self.rollout else None
        if is_of_template(self):
            return RunTemplate(
                task_id=task_id,
                target=self.target.decided(),
                template=self.template or "",
                parameters=self.parameters or {},
                when_offline=self.when_offline,
                expires_in=expires_in,
                reason=self.reason,
                preview_id=self.preview_id,
                rollout=rollout,
            )
        if self.secrets is not None:
            check_secrets(self.secrets, self.env)
        return CreateTask(
            task_id=task_id,
            target=self.target.decided(),
            command=self.command or "",
            timeout=needed("timeout", self.timeout),
            user=needed("user", self.user),
            argv=tuple(self.argv) if self.argv else None,
            env=self.env,
            secrets=None if self.secrets is None else vault.seal(task_id, self.secrets),
            cwd=self.cwd,
            stdin=self.stdin,
            when_offline=self.when_offline,
            expires_in=expires_in,
            reason=self.reason,
            preview_id=self.preview_id,
            rollout=rollout,
        )


V = TypeVar("V")


def needed(field: str, value: V | None) -> V:
    if value is None:
        raise InvalidFieldError(field, "is needed, unless a template says it")
    return value


class RetryHosts(Request):
    """Which hosts of a task to try once more.

    Attributes:
        states: those that ended in one of these; of the lost ones none that has said since that it succeeded there.
        hosts: if given, none but these; also one that has succeeded late.
        task_id: as of a task that is asked for; the same one again is the same retry.
        approval_id: of an approval of its own, where rules ask for one.
    """

    states: Annotated[list[End], Field(min_length=1, max_length=len(TERMINAL))]
    hosts: Annotated[list[Name], Field(min_length=1, max_length=MAX_HOSTS)] | None = None
    task_id: TaskId | None = None
    preview_id: StrictStr | None = Field(None, max_length=128)
    reason: Line | None = None
    approval_id: StrictStr | None = Field(None, max_length=64)

    def decided(self, retry_of: str, task_id: str) -> RetryTask:
        return RetryTask(
            task_id=task_id,
            retry_of=retry_of,
            states=frozenset(self.states),
            hosts=tuple(self.hosts) if self.hosts else None,
            reason=self.reason,
            preview_id=self.preview_id,
        )
