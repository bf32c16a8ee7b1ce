"""What a host may have had before its quarantine is never sent again, and all else is, whoever takes over when."""

from hypothesis import example, given
from hypothesis import strategies as st

from control_plane.events import hosts, rollouts, tasks
from control_plane.processes.open_executions import OpenExecutions
from control_plane.projections.queries.tasks import OpenExecution, _open
from control_plane.projections.tasks import TasksProjection
from tests.support.events import TASK, a_task_accepted
from tests.support.fleet import a_registration, host_key
from tests.support.folds import Folded

WEB = "web1"
KEY = (TASK, WEB)
OF = {"task_id": TASK, "hostname": WEB}
STEPS = st.lists(
    st.sampled_from(["send", "unconfirmed", "come back", "die", "take over", "online", "quarantine", "lift"]),
    max_size=14,
)


class World:
    """One execution, what its dispatch knows, and what has really happened to it.

    Attributes:
        was_there: it was published before the last quarantine.
        has_died: a dispatch has died that may have published it.
    """

    def __init__(self, *, is_released: bool) -> None:
        self.table = TasksProjection()
        self.log = Folded(self.table)
        self.known = OpenExecutions()
        self.is_held = self.is_there = self.was_there = self.has_died = False
        self.log.then(a_registration(WEB))
        task = a_task_accepted(hosts=(WEB,)) if is_released else a_task_accepted(hosts=(WEB,), rollout={})
        self.known.accept(task, self.log.then(task))

    @property
    def head(self) -> int:
        return self.log.heads["event"]

    def record(self, event: tasks.ExecutionSent | tasks.ExecutionReturned | tasks.ExecutionUnconfirmed) -> None:
        self.log.then(event)
        self.known.note(event)

    def row(self) -> OpenExecution:
        task, host = self.log.row(self.table.task, TASK), self.log.row(self.table.online, WEB)
        return _open({**task, **self.log.row(self.table.execution, TASK, WEB), **host, "task_state": task["state"]})

    def release(self) -> None:
        self.known.release(TASK, WEB, self.log.then(rollouts.ExecutionReleased(**OF)))

    def publish(self, what: str) -> None:
        due = self.known.due[KEY]
        if self.is_held or due.answered or not due.is_released:
            return
        assert not self.was_there
        self.is_there = self.is_there or what != "come back"
        match what:
            case "send" if not due.was_sent:
                self.record(tasks.ExecutionSent(**OF, route="cmd.node", after_seq=self.head))
            case "unconfirmed" if not due.delivery.may_have_arrived:
                self.record(tasks.ExecutionUnconfirmed(**OF, after_seq=self.head))
            case "come back" if due.delivery.returned_seq < due.delivery.trigger_seq:
                self.record(tasks.ExecutionReturned(**OF, trigger_seq=due.delivery.trigger_seq))

    def take_over(self) -> None:
        self.known = OpenExecutions()
        for event in self.known.load([self.row()], upto=self.head):
            self.record(event)

    def happens(self, step: str) -> None:
        match step:
            case "die":
                self.is_there = self.is_there or not (self.is_held or self.known.due[KEY].answered)
                self.has_died = True
                self.known = OpenExecutions()
            case "take over":
                self.has_died = True
                self.take_over()
            case "online":
                online = hosts.HostWentOnline(hostname=WEB, heartbeat_seq=self.head, heartbeat={}, cause="a test")
                self.known.online(WEB, self.log.then(online))
            case "quarantine" if not self.is_held:
                key_id = host_key(WEB).key_id
                doubt = {"heartbeat_seq": self.head, "key_id": key_id, "reason": "r", "before": "2", "after": "1"}
                self.log.then(hosts.HostQuarantined(hostname=WEB, **doubt))
                self.known.quarantine(WEB)
                self.is_held, self.was_there = True, self.was_there or self.is_there
            case "lift" if self.is_held:
                self.is_held = False
                self.known.online(
                    WEB, self.log.then(hosts.HostQuarantineLifted(hostname=WEB, based_on=self.head, reason="r"))
                )
            case "send" | "unconfirmed" | "come back":
                self.publish(step)


@example(True, [], ["die", "quarantine", "lift", "take over", "send"])
@example(True, [], ["die", "quarantine", "take over", "lift", "take over", "send"])
@example(True, [], ["come back", "online", "die", "quarantine", "lift", "take over", "send"])
@example(True, [], ["come back", "quarantine", "lift", "send", "take over", "online", "send"])
@given(st.booleans(), st.lists(st.sampled_from(["online", "quarantine", "lift"]), max_size=4), STEPS)
def test_what_may_have_been_there_before_a_quarantine_is_not_sent_again_and_all_else_is(
    is_released: bool, before: list[str], steps: list[str]
) -> None:
    world = World(is_released=is_released)
    for step in before if not is_released else ():
        world.happens(step)
    if not is_released:
        world.release()
    for step in steps:
        if world.known.due or step in {"take over", "online", "quarantine", "lift"}:
            world.happens(step)
        if world.known.due and not world.has_died:
            assert world.known.due[KEY].answered == world.was_there
            again = OpenExecutions()
            again.load([world.row()], upto=0)
            assert again.due[KEY].answered == world.was_there, "the table says the same"
