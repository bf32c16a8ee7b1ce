"""What is in a broker's queues, and messages of somebody else's: by AMQP, so that what is seen is of now."""

import asyncio
import hashlib
from collections.abc import Collection, Iterable

import aiormq
from pamqp.commands import Basic

from control_plane_wire.transport.base import Message, PublishOutcome
from control_plane_wire.transport.rabbitmq import RabbitTransport

TIMEOUT_S = 20.0


def depths(url: str, queues: Collection[str]) -> dict[str, int]:
    """How many messages wait in each queue; those that are with a consumer are not among them."""
    return asyncio.run(_depths(url, queues))


async def _depths(url: str, queues: Collection[str]) -> dict[str, int]:
    async with asyncio.timeout(TIMEOUT_S):
        connection = await aiormq.connect(url)
        try:
            channel = await connection.channel()
            declared = {queue: await channel.queue_declare(queue, passive=True) for queue in queues}
        finally:
            await connection.close()
    return {queue: answer.message_count or 0 for queue, answer in declared.items()}


def digests_in(url: str, queue: str) -> list[str]:
    """The SHA-256 of every message in a queue, which stay there."""
    return asyncio.run(_digests_in(url, queue))


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def _digests_in(url: str, queue: str) -> list[str]:
    found = []
    async with asyncio.timeout(TIMEOUT_S):
        connection = await aiormq.connect(url)
        try:
            channel = await connection.channel()
            while isinstance((message := await channel.basic_get(queue)).delivery, Basic.GetOk):
                found.append(digest_of(message.body))
        finally:
            await connection.close()  # what was got and not acknowledged is back in the queue
    return found


def publish(url: str, messages: Iterable[Message]) -> list[PublishOutcome]:
    """Publish these one after the other; what became of each."""
    return asyncio.run(_publish(url, messages))


async def _publish(url: str, messages: Iterable[Message]) -> list[PublishOutcome]:
    async with asyncio.timeout(TIMEOUT_S), RabbitTransport(url).connect("somebody") as session:
        return [await session.publish(message) for message in messages]


def tap(url: str, queue: str, exchange: str, routing_key: str) -> None:
    """Have a queue that gets a copy of everything under a key. Nothing under it is returned any more."""
    asyncio.run(_tap(url, queue, exchange, routing_key))


async def _tap(url: str, queue: str, exchange: str, routing_key: str) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        connection = await aiormq.connect(url)
        try:
            channel = await connection.channel()
            await channel.queue_declare(queue, durable=True)
            await channel.queue_bind(queue, exchange, routing_key)
        finally:
            await connection.close()


def tapped(url: str, queue: str) -> list[Message]:
    """What has come to such a queue, taken out of it."""
    return asyncio.run(_tapped(url, queue))


async def _tapped(url: str, queue: str) -> list[Message]:
    found = []
    async with asyncio.timeout(TIMEOUT_S):
        connection = await aiormq.connect(url)
        try:
            channel = await connection.channel()
            while isinstance((message := await channel.basic_get(queue, no_ack=True)).delivery, Basic.GetOk):
                found.append(Message(exchange=message.exchange, routing_key=message.routing_key, body=message.body))
        finally:
            await connection.close()
    return found


def exists(url: str, queue: str) -> bool:
    """Whether there is a queue of that name, be it an agent's own."""
    return asyncio.run(_exists(url, queue))


async def _exists(url: str, queue: str) -> bool:
    async with asyncio.timeout(TIMEOUT_S), RabbitTransport(url).connect("somebody") as session:
        return await session.queue_exists(queue)
