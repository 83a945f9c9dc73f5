"""What stands between a site and the world: a forward proxy, a server with its own certificate."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

READ_BYTES = 1 << 16
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, first: bytes = b""
) -> None:
    """Forward both ways between a client and this machine's ``port``."""
    there, back = await asyncio.open_connection("127.0.0.1", port)
    try:
        back.write(first)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))
    finally:
        back.transport.abort()


@asynccontextmanager
async def _listening(handle: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve each connection with ``handle``; yield the port, end all connections after."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def forward_proxy(hosts: list[str]) -> AsyncIterator[str]:
    """Run an HTTP proxy whose every host is this machine; ``hosts`` lists what was asked for."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, rest = head.split(b" ", 2)
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            hosts.append(f"CONNECT {host}")
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _join(reader, writer, int(port))
        else:
            url = urlsplit(target.decode())
            hosts.append(f"{method.decode()} {url.hostname}")
            path = url.path + (f"?{url.query}" if url.query else "")
            # Each request names its own host, so a connection carries one.
            rest = rest.replace(b"keep-alive", b"close")
            first = b" ".join([method, path.encode(), rest])
            await _join(reader, writer, url.port or 80, first)

    async with _listening(handle) as port:
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def tls_front(target_url: str, certificate: Path) -> AsyncIterator[str]:
    """Run a TLS server before ``target_url``; its own certificate is written to ``certificate``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the site")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    certificate.write_bytes(signed.public_bytes(pem))
    private = certificate.with_suffix(".key")
    private.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    target_port = int(urlsplit(target_url).port or 80)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, target_port)

    async with _listening(handle, context) as port:
        yield f"https://127.0.0.1:{port}"
