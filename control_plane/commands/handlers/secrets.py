"""The secrets of tasks: read, by those who may, and never unseen."""

import secrets

from control_plane.commands.access import Principal
from control_plane.commands.handlers.tasks import check_seen, known_task
from control_plane.commands.handling import Handling
from control_plane.commands.secrets import Vault, sealed_in
from control_plane.errors import NotFoundError
from control_plane.events.secrets import SecretRead


class SecretHandler:
    def __init__(self, handling: Handling, vault: Vault) -> None:
        self._handling = handling
        self._vault = vault

    async def read(self, principal: Principal, task_id: str, name: str) -> str:
        """The value of one secret, once the log has who is shown it.

        Raises:
            NotFoundError: there is no such task, or it has no secret of that name.
            RefusedError: `secret_unreadable`, `no_secrets_key`.
        """
        await self._handling.admit(principal, "secrets.read", f"tasks/{task_id}/secrets/{name}")
        _, task = await known_task(self._handling.log, task_id)
        check_seen(self._handling, principal, task)
        sealed = sealed_in(task.request)
        if name not in sealed:
            raise NotFoundError("unknown_secret", f"the task {task_id} has no secret of that name")
        value = self._vault.open(task_id, {name: sealed[name]})[name]
        event = SecretRead(
            read_id=secrets.token_hex(16),
            task_id=task_id,
            name=name,
            actor=principal.username,
            address=principal.address,
        )
        await self._handling.record(event, actor=principal.username)
        return value
