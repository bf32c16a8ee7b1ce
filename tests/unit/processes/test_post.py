"""Immediately before each publish it is asked once more whether all is stopped."""

from control_plane.commands.authority import Keyring
from control_plane.processes.post import Post, Send
from control_plane_wire.messages import CancelMessage, CommandMessage, ConfigureMessage
from control_plane_wire.transport.base import Confirmed, Message
from tests.support.clock import ManualClock
from tests.support.fleet import CONTROL_PLANE_KEY


class Broker:
    """It stops everything when the first message is published."""

    def __init__(self) -> None:
        self.published: list[Message] = []

    def is_stopped(self) -> bool:
        return bool(self.published)

    async def publish(self, message: Message) -> Confirmed:
        self.published.append(message)
        return Confirmed()

    async def queue_exists(self, _name: str) -> bool:
        return True


async def test_a_stop_between_two_publishes_of_one_batch_holds_the_second_but_no_cancel_and_no_configure() -> None:
    broker, key = Broker(), "cmd.node.web1"
    post = Post(broker, Keyring(CONTROL_PLANE_KEY), ManualClock(), is_stopped=broker.is_stopped)
    command = CommandMessage(task_id="t1", command="id", timeout=5, user="root", timestamp=1)
    cancel = CancelMessage(task_id="t2", timestamp=1)
    configure = ConfigureMessage(task_id="t3", timestamp=1, as_of=1, groups={})

    fates = await post.publish([Send(key, message) for message in (command, command, cancel, configure)])

    assert fates == ["confirmed", "unsent", "confirmed", "confirmed"]
    assert [message.correlation_id for message in broker.published] == ["t1", "t2", "t3"]
