"""`cpctl login` and `logout`: a password makes a token of its own for this machine, which is kept; no password is."""

import argparse
import contextlib
import socket
import sys
from pathlib import Path

import httpx

from cpctl.client import Client, quoted
from cpctl.credentials import Credentials, checked_url, find, keep, kept_at, read
from cpctl.errors import NOT_ALLOWED, OK, CpctlError, ProblemError
from cpctl.terminal import ask, ask_password, is_interactive, say


async def login(arguments: argparse.Namespace) -> int:
    path = kept_at(arguments.environment)
    url = checked_url(arguments.url) if arguments.url else find(arguments.environment).url
    if arguments.token_stdin:
        token, token_id = sys.stdin.readline().strip(), None
        if not token:
            raise CpctlError("--token-stdin: standard input has no token")
    else:
        token, token_id = await _made(arguments, url)
    credentials = Credentials(url, token, str(arguments.ca_file.resolve()) if arguments.ca_file else None, token_id)
    async with _client(credentials) as client:
        me = await client.get("/auth/me")
    with contextlib.suppress(CpctlError):  # it is none of ours, or that server is gone: its token ends by itself
        if (before := read(path)) is not None:
            await _end(before)
    try:
        keep(path, credentials)
    except CpctlError:
        await _end(credentials)  # nobody would have it
        raise
    say(f"signed in to {url} as {me['username']} ({me['role']}); kept in {path}")
    return OK


async def _made(arguments: argparse.Namespace, url: str) -> tuple[str, str]:
    """A new token by user and password, and its id."""
    if not is_interactive():
        raise CpctlError("no terminal to ask for a password: cpctl login URL --token-stdin", NOT_ALLOWED)
    username = arguments.username or ask("user: ")
    said = {"username": username, "password": ask_password("password: ")}
    async with Client(url, None, ca_file=arguments.ca_file) as client:
        try:
            me = await client.send("POST", "/auth/login", body=said, tries=1)
        except ProblemError as error:
            if "passkey" in error.code:
                where = f"make a token at {url}/access?tab=tokens, then cpctl login URL --token-stdin"
                raise CpctlError(f"{username} has a passkey, which takes a browser: {where}", NOT_ALLOWED) from error
            raise
        headers = {"X-CSRF-Token": me["csrf_token"], "Origin": url}
        wanted = {"name": f"cpctl on {socket.gethostname()}", "days": arguments.days}
        try:
            made = await client.send("POST", "/tokens", body=wanted, headers=headers, tries=1)
        finally:
            with contextlib.suppress(CpctlError):
                await client.send("POST", "/auth/logout", headers=headers, tries=1)
    return made["token"], made["token_id"]


async def _end(credentials: Credentials) -> None:
    """End a token that login has made."""
    if credentials.token_id is None:
        return
    async with _client(credentials) as client:
        try:
            await client.send("DELETE", f"/tokens/{quoted(credentials.token_id)}")
        except ProblemError as error:
            if error.http_status not in (httpx.codes.UNAUTHORIZED, httpx.codes.NOT_FOUND):  # it has ended already
                raise


async def logout(arguments: argparse.Namespace) -> int:
    """End the token that login has made, and forget it."""
    path = kept_at(arguments.environment)
    credentials = read(path)
    if credentials is None:
        raise CpctlError("not signed in by cpctl login")
    await _end(credentials)
    path.unlink()
    say(f"signed out of {credentials.url}")
    return OK


def client(arguments: argparse.Namespace) -> Client:
    """Of whoever is signed in."""
    ca_file = str(arguments.ca_file) if arguments.ca_file else None
    return _client(find(arguments.environment, ca_file=ca_file))


def _client(credentials: Credentials) -> Client:
    return Client(
        credentials.url, credentials.token, ca_file=Path(credentials.ca_file) if credentials.ca_file else None
    )
