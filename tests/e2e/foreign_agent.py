"""An agent by somebody else: written from the protocol page alone, knowing only its required fields.

It imports nothing of this project and prints one JSON line for each thing it sees, so that a test can judge it:

    foreign_agent.py AMQP_URL HOSTNAME GROUP,GROUP PRIVATE_KEY_HEX CONTROL_PLANE_PUBLIC_KEY_BASE64
"""

import asyncio
import base64
import hashlib
import json
import sys
import time

import aio_pika
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

REQUIRED = {"task_id", "command", "timeout", "user", "timestamp", "sign"}
HEARTBEAT_S = 1.0


def say(what, **fields):
    print(json.dumps({"saw": what, **fields}), flush=True)


def canonical(message):
    """RFC 8785 for what this agent sends: ASCII keys, and whole floats written as integers."""
    whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in message.items()}
    return json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def signing_input(kind, sender, recipient, public_key, body):
    key_id = hashlib.sha256(public_key).hexdigest()[:16]
    parts = [kind.encode(), sender.encode(), recipient.encode(), key_id.encode(), body]
    return b"CPSIG1" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class ForeignAgent:
    def __init__(self, hostname, groups, private_key, control_plane_key):
        self.hostname = hostname
        self.groups = groups
        self.key = Ed25519PrivateKey.from_private_bytes(private_key)
        self.public_key = self.key.public_key().public_bytes_raw()
        self.control_plane_key = control_plane_key
        self.answers = {}

    def signed(self, kind, message):
        to_sign = signing_input(kind, self.hostname, "control-plane", self.public_key, canonical(message))
        return json.dumps(message | {"signature": base64.b64encode(self.key.sign(to_sign)).decode()}).encode()

    def is_authentic(self, message, routing_key):
        body = canonical({k: v for k, v in message.items() if k != "sign"})
        to_check = signing_input("command", "control-plane", routing_key, self.control_plane_key, body)
        try:
            Ed25519PublicKey.from_public_bytes(self.control_plane_key).verify(
                base64.b64decode(message["sign"]), to_check
            )
        except InvalidSignature:
            return False
        return True

    async def answer(self, message):
        """Run the command once; a repeat of its task_id gets the same bytes again."""
        task_id = message["task_id"]
        if task_id not in self.answers:
            process = await asyncio.create_subprocess_shell(message["command"], stdout=-1, stderr=-1)
            stdout, stderr = await asyncio.wait_for(process.communicate(), message["timeout"])
            result = {"task_id": task_id, "exit_code": process.returncode, "stdout": stdout.decode()}
            result |= {"stderr": stderr.decode(), "timestamp": int(time.time())}
            self.answers[task_id] = self.signed("result", result)
        return self.answers[task_id]

    async def run(self, url):
        connection = await aio_pika.connect(url, heartbeat=10)
        async with connection, connection.channel() as channel:
            commands = await channel.get_exchange("sys_cmd_exchange", ensure=False)
            self.results = await channel.get_exchange("sys_result_exchange", ensure=False)
            self.monitor = await channel.get_exchange("sys_monitor_exchange", ensure=False)
            queue = await channel.declare_queue(f"cmd.node.{self.hostname}", exclusive=True)
            keys = [f"cmd.node.{self.hostname}", "cmd.all", *(f"cmd.group.{group}" for group in self.groups)]
            for key in keys:
                await queue.bind(commands, key)
            say("bound", keys=keys)
            async with asyncio.TaskGroup() as group:
                group.create_task(self.heartbeats())
                group.create_task(self.commands(queue))

    async def heartbeats(self):
        for beat in range(1_000_000):
            usage = float(beat % 2)  # exactly 0 and exactly 1, which RFC 8785 writes without a fraction
            heartbeat = {"hostname": self.hostname, "status": "online", "timestamp": int(time.time())}
            heartbeat |= {"cpu_usage": usage, "memory_usage": 1.0 - usage}
            body = self.signed("heartbeat", heartbeat)
            await self.monitor.publish(aio_pika.Message(body, delivery_mode=2), "heartbeat", timeout=10)
            await asyncio.sleep(HEARTBEAT_S)

    async def commands(self, queue):
        async with queue.iterator() as deliveries:
            async for delivery in deliveries:
                message = json.loads(delivery.body)
                if set(message) != REQUIRED:
                    say("not understood", fields=sorted(message))
                elif not self.is_authentic(message, delivery.routing_key):
                    say("forged", task_id=message["task_id"], routing_key=delivery.routing_key)
                else:
                    say("command", task_id=message["task_id"], routing_key=delivery.routing_key)
                    result = aio_pika.Message(await self.answer(message), delivery_mode=2)
                    await self.results.publish(result, f"result.node.{self.hostname}", timeout=10)
                await delivery.ack()


if __name__ == "__main__":
    amqp_url, name, group_list, key_hex, control_plane_key = sys.argv[1:]
    agent = ForeignAgent(name, group_list.split(","), bytes.fromhex(key_hex), base64.b64decode(control_plane_key))
    say("key", public_key=base64.b64encode(agent.public_key).decode())
    asyncio.run(agent.run(amqp_url))
