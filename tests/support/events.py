"""One event of every kind, and events as the log keeps them."""

from collections.abc import Mapping

from control_plane.events import (
    access,
    approvals,
    enrolment,
    hosts,
    passkeys,
    rollouts,
    rules,
    secrets,
    stop,
    tasks,
    templates,
)
from control_plane.events.envelope import NewEvent, StoredEvent
from control_plane.events.event import Event
from control_plane_wire.strict_json import Json, JsonObject
from tests.support.clock import START_US

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
PUBLIC_KEY = "gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q="
TASK = "0190163d-8694-739b-aea5-966c26f8ad91"
HOST = "web1.example.com"
AT = START_US // 1_000_000

HEARTBEAT: JsonObject = {
    "hostname": HOST,
    "status": "online",
    "timestamp": AT,
    "cpu_usage": 0.1,
    "memory_usage": 1,
    "disk_usage": 1e-7,
    "agent_version": "1.0",
    "boot_id": "b1",
    "sequence": 17,
    "running": 0,
}
RESULT: JsonObject = {
    "task_id": TASK,
    "exit_code": 0,
    "stdout": "Grüße, 世界 \U0001f600\n",
    "stderr": "",
    "timestamp": AT,
    "outcome": "completed",
}
ACCEPTED: JsonObject = {"kind": "accepted", "task_id": TASK, "timestamp": AT}


def stored(new: NewEvent, *, seq: int = 1, recorded_us: int = START_US) -> StoredEvent:
    """The event as the log keeps it."""
    return StoredEvent(
        seq,
        recorded_us,
        new.kind,
        new.schema_v,
        new.task_id,
        new.hostname,
        new.actor,
        new.occurred_us,
        new.body,
        new.signature,
        new.key_id,
    )


def a_task_accepted(task_id: str = TASK, hosts: tuple[str, ...] = ("db1", HOST), **request: Json) -> tasks.TaskAccepted:
    asked: Mapping[str, Json] = {
        "target": {"hosts": ["db1", HOST]},
        "command": "uptime -p",
        "argv": ["uptime", "-p"],
        "env": {"LANG": "C.UTF-8"},
        "timeout": 30,
        "user": "root",
        "when_offline": "queue",
        "expires_in": 600,
        **request,
    }
    return tasks.TaskAccepted(
        task_id=task_id,
        request=asked,
        request_sha256=SHA,
        hosts=hosts,
        hosts_sha256=SHA,
        basic=(),
        as_of=41,
        actor="ada",
        accepted_at=AT,
        expires_at=AT + 600,
        guard={"level": 3, "rules": ["all hosts"]},
    )


EXAMPLES: tuple[Event, ...] = (
    a_task_accepted(),
    tasks.TaskCancelRequested(task_id=TASK, actor="ada", reason="wrong host"),
    rollouts.TaskPaused(task_id=TASK, actor="rollout", based_on=42, reason="it has succeeded", awaits="approval"),
    rollouts.TaskResumed(task_id=TASK, actor="ada", based_on=44),
    rollouts.TaskApproved(task_id=TASK, actor="ada", reason="it looks well"),
    rollouts.TaskRolloutStopped(task_id=TASK, failed=2, targets=40, max_errors=1),
    rollouts.ExecutionReleased(task_id=TASK, hostname=HOST),
    tasks.ExecutionSent(task_id=TASK, hostname=HOST, route=f"cmd.node.{HOST}"),
    tasks.ExecutionReturned(task_id=TASK, hostname=HOST, trigger_seq=42),
    tasks.ExecutionUnconfirmed(task_id=TASK, hostname=HOST),
    tasks.ExecutionAccepted(hostname=HOST, message=ACCEPTED),
    tasks.ExecutionStarted(hostname=HOST, message={**ACCEPTED, "started_at": AT}),
    tasks.ExecutionFinished(hostname=HOST, message=RESULT),
    tasks.ExecutionLateResult(hostname=HOST, message={**RESULT, "exit_code": None, "outcome": "rejected"}),
    tasks.ExecutionExpired(task_id=TASK, hostname=HOST, reason="not reachable until it expired"),
    tasks.ExecutionLost(task_id=TASK, hostname=HOST, reason="no word from the agent"),
    tasks.ExecutionSkipped(task_id=TASK, hostname=HOST, reason="offline"),
    tasks.ExecutionCancelled(task_id=TASK, hostname=HOST, reason="cancelled before it was sent"),
    tasks.ExecutionConflict(task_id=TASK, hostname=HOST, first_seq=43, result_sha256=SHA),
    tasks.ExecutionUnexpected(task_id=TASK, hostname=HOST, reason="not a target of this task", message_sha256=SHA),
    hosts.HostRegistered(
        hostname=HOST,
        generation=1,
        public_key=PUBLIC_KEY,
        groups=("db", "web"),
        registered_by="ada",
        enrolment_token_id="0123456789abcdef",
    ),
    hosts.HostGroupsChanged(hostname=HOST, based_on=3, groups=()),
    hosts.HostLabelsChanged(hostname=HOST, based_on=4, labels={"site": "Zürich"}),
    hosts.HostMaintenanceChanged(hostname=HOST, based_on=5, maintenance=True),
    hosts.HostRevoked(hostname=HOST, based_on=6, reason="stolen"),
    hosts.HostRetired(hostname=HOST, based_on=7),
    hosts.HostKeyRotated(hostname=HOST, based_on=8, public_key=PUBLIC_KEY, nonce_ends=AT + 120),
    hosts.HostKeySwitched(hostname=HOST, rotated_seq=9, key_id="9f86d081884c7d65"),
    hosts.HostRequestRefused(hostname=HOST, fingerprint=SHA, asked_at=AT, address="192.0.2.7"),
    hosts.HostQuarantined(
        hostname=HOST,
        heartbeat_seq=11,
        key_id="34750f98bd59fcfc",
        reason="its journal went back in time",
        before=str(AT),
        after=str(AT - 3600),
    ),
    hosts.HostQuarantineLifted(hostname=HOST, based_on=8, reason="restored from the backup of Monday"),
    hosts.HostWentOnline(hostname=HOST, heartbeat_seq=11, heartbeat=HEARTBEAT, cause="heartbeat"),
    hosts.HostWentStale(hostname=HOST, heartbeat_seq=11, heartbeat=HEARTBEAT, cause="no heartbeat for 20 s"),
    hosts.HostWentOffline(hostname=HOST, heartbeat_seq=11, heartbeat=HEARTBEAT, cause="no heartbeat for 30 s"),
    hosts.CheckpointDisputed(hostname=HOST, checkpoint="o/event\n7\nAA==\n\n— o/event AA==\n", reason="another tree"),
    hosts.HeartbeatReceived(message=HEARTBEAT),
    enrolment.EnrolmentTokenCreated(
        token_id="0123456789abcdef",
        token_sha256=SHA,
        groups=("web",),
        expires_at=AT + 3600,
        created_by="ada",
        hostname=HOST,
    ),
    enrolment.EnrolmentTokenUsed(token_id="0123456789abcdef", hostname=HOST, public_key=PUBLIC_KEY),
    enrolment.EnrolmentTokenRevoked(token_id="0123456789abcdef"),
    access.UserCreated(username="ada", based_on=0, role="administrator", phc_sha256=SHA),
    access.UserRoleChanged(username="ada", based_on=8, role="viewer"),
    access.UserDisabled(username="ada", based_on=9),
    access.UserEnabled(username="ada", based_on=10),
    access.UserPasswordChanged(username="ada", based_on=11, phc_sha256=SHA),
    access.UserIdentityChanged(username="ada", based_on=12, issuer="https://sso.example.com", subject="248289761001"),
    access.SessionOpened(session_sha256=SHA, username="ada", expires_at=AT + 43_200, address="127.0.0.1"),
    access.SessionClosed(session_sha256=SHA, username="ada"),
    access.TokenCreated(
        token_id="0123456789abcdef", token_sha256=SHA, username="ada", name="ci", expires_at=AT + 86_400
    ),
    access.TokenRevoked(token_id="0123456789abcdef", username="ada"),
    access.AccessDenied(denial_id="d1", actor="ada", action="tasks.run", resource="targets", address="127.0.0.1"),
    access.LoginFailed(attempt_id="a1", username="ada", address="127.0.0.1"),
    access.KeyAdded(key_id="34750f98bd59fcfc", public_key=PUBLIC_KEY),
    access.KeyAnnounced(announced_by="34750f98bd59fcfc", public_key_sha256=SHA),
    access.KeyRetired(key_id="34750f98bd59fcfc", heartbeats=42, reason="a disk was lost"),
    access.LogLossAccepted(
        log="heartbeat_event", size=40, root=SHA, lost_size=42, lost_root=SHA, reason="nodes lost their disks"
    ),
    access.MessageRejected(
        message_sha256=SHA, queue="cmd.result", routing_key=f"result.node.{HOST}", reason="wrong signature of db1"
    ),
    passkeys.PasskeyAdded(
        passkey_id=SHA,
        username="ada",
        name="the key on my ring",
        credential_id="Vgp0aHJlZS1tb3VzZQ",
        public_key="pQECAyYgASFYIA==",
        sign_count=4,
        added_at=AT,
    ),
    passkeys.PasskeyRemoved(passkey_id=SHA, username="ada"),
    rules.RuleCreated(
        rule_id="0123456789abcdef",
        effect="allow",
        subject="user:ada",
        actions=("tasks.cancel", "tasks.run"),
        all_hosts=False,
        groups=("web",),
        hostnames=(HOST,),
        accounts=("deploy",),
        command="argv",
        most_hosts=10,
        longest_timeout=600,
        reason="deploys the shop \u2013 and nothing else",
    ),
    rules.RuleDeleted(rule_id="0123456789abcdef"),
    stop.StopSet(actor="ada", based_on=0, stopped_at=AT, reason="a wrong command is on its way"),
    stop.StopLifted(actor="root", based_on=60, reason="it was cancelled"),
    templates.TemplateCreated(
        name="restart",
        based_on=0,
        argv=("/usr/bin/systemctl", "restart", "{unit}", "--job-mode={mode}"),
        parameters=(
            {"name": "unit", "type": "name"},
            {"name": "mode", "type": "choice", "choices": ["fail", "replace"]},
        ),
        user="root",
        timeout=60,
        cwd="/srv",
        env={"LANG": "C.UTF-8"},
        description="restarts a service \u2013 and nothing else",
    ),
    templates.TemplateDeleted(name="restart", based_on=62),
    approvals.ApprovalRequested(
        approval_id="0123456789abcdef0123456789abcdef",
        task_id=TASK,
        request={"target": {"host": HOST}, "command": "reboot", "timeout": 30, "user": "root", "reason": "\u2013"},
        request_sha256=SHA,
        hosts=(HOST,),
        hosts_sha256=SHA,
        requester="ada",
        requested_at=AT,
        expires_at=AT + 900,
        rules=("0123456789abcdef",),
    ),
    approvals.ApprovalApproved(
        approval_id="0123456789abcdef0123456789abcdef", task_id=TASK, actor="eve", reason="agreed"
    ),
    approvals.ApprovalRefused(approval_id="fedcba9876543210fedcba9876543210", task_id=TASK, actor="eve"),
    secrets.SecretRead(read_id="r1", task_id=TASK, name="DB_PASSWORD", actor="ada", address="127.0.0.1"),
)
