"""One request to an endpoint: capped in time and bytes, and never redirected."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from collections.abc import Mapping
from datetime import UTC
from datetime import datetime
from typing import Any

import httpx

from mxmoe.conformance.escape import printable
from mxmoe.evals.endpoint.address import Address
from mxmoe.evals.endpoint.api_key import ApiKey
from mxmoe.evals.endpoint.backoff import read_retry_after
from mxmoe.evals.endpoint.limits import Limits
from mxmoe.evals.endpoint.trouble import RequestFailed
from mxmoe.evals.endpoint.trouble import Trouble

_OK = 200
# The server says that it did not begin, or asks to come back.
_NOT_BEGUN = frozenset({408, 425, 429, 503})
_GATEWAY_TIME_OUT = 504
_EXCERPT = 300  # bytes of an error's body that are shown


def open_client(
    address: Address, key: ApiKey, limits: Limits, *, connections: int
) -> httpx.AsyncClient:
    """A client for one endpoint.

    Every request has a connection of its own: on a kept one, bytes that a server sent
    too many would be read as the next question's answer. Proxies and .netrc of the
    environment are not used: they take the key elsewhere.
    """
    return httpx.AsyncClient(
        headers={
            **key.headers(),
            "Accept-Encoding": "identity",
            "Cache-Control": "no-store",
            "Connection": "close",
        },
        # OpenSSL reads SSL_CERT_FILE itself; a plain connection has no certificates.
        verify=ssl.create_default_context() if address.encrypted else False,
        follow_redirects=False,
        trust_env=False,
        timeout=httpx.Timeout(limits.request, connect=limits.connect),
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=0),
    )


async def post(
    client: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    limits: Limits,
    *,
    at_most: int,
) -> bytes:
    """The body of the answer, `at_most` bytes; raises `RequestFailed`."""
    found = bytearray()
    async with contextlib.aclosing(
        pieces(client, url, body, limits, at_most=at_most)
    ) as received:
        async for piece in received:
            found += piece
    return bytes(found)


async def pieces(
    client: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    limits: Limits,
    *,
    at_most: int,
) -> AsyncGenerator[bytes, None]:
    """The bytes of the answer as they come; raises `RequestFailed`."""
    count = 0
    try:
        async with (
            asyncio.timeout(limits.request),
            client.stream("POST", url, json=dict(body)) as response,
        ):
            await _refuse_status(response)
            async for piece in response.aiter_raw():
                count += len(piece)
                if count > at_most:
                    raise RequestFailed(
                        Trouble.BROKEN,
                        f"expected an answer of at most {at_most} bytes, found more",
                    )
                yield piece
    # "from None": httpx' exceptions hold the request, and that the key.
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise RequestFailed(Trouble.REFUSED, _named(error)) from None
    except (TimeoutError, httpx.TimeoutException):
        said = f"no whole answer within {limits.request:g} s"
        raise RequestFailed(Trouble.TIME_OUT, said) from None
    except httpx.TransportError as error:
        raise RequestFailed(Trouble.BROKEN, _named(error)) from None


async def _refuse_status(response: httpx.Response) -> None:
    status = response.status_code
    if status == _OK:
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            said = f"expected a body without compression, found {encoding[:40]!r}"
            raise RequestFailed(Trouble.BROKEN, said, status=status)
        return
    if response.is_redirect:
        where = response.headers["location"]
        said = f"HTTP {status}: redirects are not followed, found one to {where!r:.200}"
        raise RequestFailed(Trouble.REJECTED, said, status=status)
    if status in _NOT_BEGUN:
        trouble = Trouble.REFUSED
    elif status == _GATEWAY_TIME_OUT:
        trouble = Trouble.TIME_OUT
    elif response.is_server_error:
        trouble = Trouble.BROKEN
    else:
        trouble = Trouble.REJECTED
    raise RequestFailed(
        trouble,
        f"HTTP {status}: {await _excerpt(response)}",
        status=status,
        retry_after=read_retry_after(
            response.headers.get("retry-after"), datetime.now(UTC)
        ),
    )


async def _excerpt(response: httpx.Response) -> str:
    found = b""
    try:
        async for piece in response.aiter_raw():
            found += piece
            if len(found) >= _EXCERPT:
                break
    except httpx.TransportError:
        pass  # the status says enough
    text = found[:_EXCERPT].decode("utf-8", "replace")
    return printable(" ".join(text.split())) or "no body"


def _named(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}").splitlines()[0]
