"""The HTTP API: requests, pages, the stream; every failure as a CpctlError."""

import asyncio
import json
import random
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from cpctl.errors import CpctlError, ProblemError, UnreachableError

TIMEOUT_S: Final = 30.0
SILENCE_S: Final = 12.0  # the server pings every 5 s
TRIES: Final = 4
MOST_WAIT_S: Final = 5.0
PAGE: Final = 1000
SERVER_ERROR: Final = 500
UNAVAILABLE: Final = (429, 502, 503, 504)
_ENDS: Final = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of the stream. `id` is the position to go on from, None where there is none."""

    event: str
    data: Any
    id: str | None


class Client:
    """Who asks. What may be sent twice is asked again where no answer comes; the rest is asked once.

    Args:
        url: of the server, without `/api/v1`.
        ca_file: certificates to trust in place of the machine's.
        transport: in place of the network.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_S,
            verify=_trusted(ca_file),
            trust_env=not url.startswith("http:"),  # a proxy would be told the token in the clear
            transport=transport,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - JSON
        return await self.send("GET", path, query=query)

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - JSON
        """For what carries an id of its own, or says how things are to be: it may be sent again."""
        return await self.send("POST", path, body=body or {})

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        tries: int = TRIES,
    ) -> Any:  # noqa: ANN401 - JSON
        """The decoded answer, None where it is empty.

        Args:
            tries: 1 for what must not be done twice.

        Raises:
            ProblemError: the server refuses it.
            UnreachableError: no answer after some tries, or one that is none of this API.
        """
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        for left in reversed(range(tries)):
            try:
                answer = await self._http.request(method, path, params=params, json=body, headers=dict(headers or {}))
            except httpx.HTTPError as error:
                if not left:
                    raise self._unreachable(error) from error
                await _pause(tries - left, None)
                continue
            if answer.status_code in UNAVAILABLE and left:
                await _pause(tries - left, answer.headers.get("retry-after"))
                continue
            return self._decoded(answer)
        raise AssertionError  # pragma: no cover - the last try returns or raises

    async def pages(self, path: str, *, most: int | None = None, **query: object) -> AsyncIterator[dict[str, Any]]:
        """A list page by page, each as it is; at most so many items in all."""
        cursor, number = None, 0
        while True:
            limit = PAGE if most is None else min(PAGE, most - number)
            page = await self.get(path, cursor=cursor, limit=limit, **query)
            number += len(page["items"])
            yield page
            cursor = page.get("next_cursor")
            if cursor is None or (most is not None and number >= most):
                return

    async def items(self, path: str, *, most: int | None = None, **query: object) -> AsyncIterator[dict[str, Any]]:
        async for page in self.pages(path, most=most, **query):
            for item in page["items"]:
                yield item

    @asynccontextmanager
    async def stream(self, topics: str, after: str) -> AsyncIterator[AsyncIterator[Frame]]:
        """What changes after a position. It ends where the connection does: whoever reads resumes.

        Raises:
            ProblemError: the server refuses it.
            UnreachableError: it cannot be reached, or is silent for too long.
        """
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        request = self._http.build_request("GET", "/stream", params={"topics": topics, "after": after}, timeout=timeout)
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    await answer.aread()
                    self._decoded(answer)
                yield frames(_lines(answer.aiter_text()))
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def download(self, path: str, **query: object) -> AsyncIterator[AsyncIterator[bytes]]:
        """A body in pieces, as it comes."""
        params = {name: str(value) for name, value in query.items() if value is not None}
        try:
            async with self._http.stream("GET", path, params=params) as answer:
                if not answer.is_success:
                    await answer.aread()
                    self._decoded(answer)
                yield answer.aiter_bytes()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _decoded(self, answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        if answer.status_code == 204:
            return None
        try:
            body = answer.json()
        except ValueError:
            raise UnreachableError(
                f"{self.url} answered {answer.status_code}, and not as a control plane does"
            ) from None
        if answer.is_success:
            return body
        if not isinstance(body, dict) or "code" not in body:
            raise self._stranger(answer)
        problem = ProblemError(answer.status_code, body)
        if answer.status_code >= SERVER_ERROR:
            raise UnreachableError(str(problem))
        raise problem

    def _stranger(self, answer: httpx.Response) -> UnreachableError:
        return UnreachableError(f"{self.url} answered {answer.status_code}, and not as a control plane does")

    def _unreachable(self, error: httpx.HTTPError) -> UnreachableError:
        said = str(error) or type(error).__name__
        return UnreachableError(f"{self.url} does not answer: {said}")


async def frames(lines: AsyncIterator[str]) -> AsyncIterator[Frame]:
    """The events in the lines of a stream; the end of one that is cut off is left out."""
    event, data, place = "message", list[str](), None
    async for text in lines:
        if not text:
            if data:
                yield Frame(event, _parsed("\n".join(data)), place)
            event, data, place = "message", [], None
            continue
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                event = value
            case "data":
                data.append(value)
            case "id":
                place = value


async def _lines(parts: AsyncIterator[str]) -> AsyncIterator[str]:
    """Lines end as those of a stream of events do, and at nothing else: the text of hosts has other separators."""
    rest = ""
    async for part in parts:
        rest += part
        if rest.endswith("\r"):  # perhaps the first half of an end
            continue
        *whole, rest = _ENDS.split(rest)
        for line in whole:
            yield line


def _parsed(data: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(data)
    except ValueError as error:
        raise UnreachableError("the server's stream is not as a control plane's") from error


async def _pause(failures: int, retry_after: str | None) -> None:
    """As long as the server asks for, or else 0.25, 0.5, 1 s, with a quarter of chance in it."""
    asked = float(retry_after) if retry_after and retry_after.isdecimal() else 0.25 * 2 ** (failures - 1)
    await asyncio.sleep(min(MOST_WAIT_S, asked) * random.uniform(0.75, 1.25))  # noqa: S311 - no secret


def _trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise CpctlError(f"--ca-file {ca_file}: {error}") from error


def quoted(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")
