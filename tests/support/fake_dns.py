"""A DNS server on a free port of this machine, by UDP and TCP: a zone to change, and ways to fail."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class FakeDns(asyncio.DatagramProtocol):
    """One server, in the event loop that starts it."""

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        """Records by name, with the dot at its end, and type."""
        self.ttl_s = 0
        self.rcode = "NOERROR"
        """Of every answer."""
        self.silent = False
        self.truncates = False
        """Send every caller from UDP to TCP."""
        self.questions: list[tuple[str, str]] = []
        self.port = 0
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._tcp = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self.port))

    def stop(self) -> None:
        """Close both sockets."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._udp is not None and (answer := self._answer(data, self.truncates)) is not None:
            self._udp.sendto(answer, addr)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = self._answer(await reader.readexactly(length), False)
            if answer is not None:
                writer.write(struct.pack("!H", len(answer)) + answer)
                await writer.drain()
        writer.close()

    def _answer(self, data: bytes, truncated: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.questions.append((name, kind))
        if self.silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        response.set_rcode(dns.rcode.from_text(self.rcode))
        if truncated:
            response.flags |= dns.flags.TC
        elif self.rcode == "NOERROR":
            alias = self.zone.get((name, "CNAME"))
            if alias and kind != "CNAME":
                response.answer.append(dns.rrset.from_text(name, self.ttl_s, "IN", "CNAME", alias[0]))
                name = alias[0]
            if records := self.zone.get((name, kind)):
                response.answer.append(dns.rrset.from_text(name, self.ttl_s, "IN", kind, *records))
            elif not any(known == name for known, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
        return response.to_wire(max_size=65_535)
