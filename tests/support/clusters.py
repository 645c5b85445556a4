"""Several Redis servers on free ports of this machine: a cluster, and a master with a replica and Sentinels."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hiredis
from redis.crc import key_slot

from tests.support.redis_servers import start_process
from tests.support.waiting import wait_until
from transport.redis.connection import info_fields

SLOTS = 16_384
# After this silence the other nodes of a cluster take a node for dead.
_NODE_TIMEOUT_MS = 2_000
SERVICE = "council"


def free_port() -> int:
    """A free port whose cluster bus port (10,000 above it) is free as well."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + 10_000))
                return port


class Server:
    """One redis-server on a TCP port, in a folder of its own."""

    def __init__(self, binary: str, folder: Path, *options: str, port: int = 0, sentinel: bool = False) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        given = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *options]
        if sentinel:
            # A Sentinel writes its state into its configuration file.
            configuration = self.folder / "sentinel.conf"
            configuration.write_text("\n".join((f"port {self.port}", "bind 127.0.0.1", *options)) + "\n")
            given = [str(configuration), "--sentinel"]
        else:
            given += ["--save", "", "--appendonly", "no", "--logfile", "redis.log"]
        self._command = [binary, *given]
        self.start()

    def start(self) -> None:
        self.process = start_process(self._command[0], self._command[1:], self.folder)
        wait_until(self._answers, f"the server on port {self.port} answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the server on port {self.port} does not start"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as client:
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False

    def run(self, *command: str | bytes | int) -> Any:
        """This server's own reply to one command; redirections are not followed."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), 5.0)) as client:
            return _exchange(client, command)

    @property
    def id(self) -> bytes:
        """This node's id in its cluster."""
        return bytes(self.run("CLUSTER", "MYID"))

    def redirects(self) -> int:
        """How many commands it has answered with ASK or TRYAGAIN."""
        errors = info_fields(self.run("INFO", "errorstats"))
        counts = [errors.get(f"errorstat_{name}", "count=0") for name in ("ASK", "TRYAGAIN")]
        return sum(int(count.removeprefix("count=")) for count in counts)

    def is_synchronized(self) -> bool:
        """True for a replica that has received all data of its master."""
        info = info_fields(self.run("INFO", "replication"))
        return info.get("master_link_status") == "up"

    def is_master(self) -> bool:
        return info_fields(self.run("INFO", "replication")).get("role") == "master"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.kill()


def _exchange(client: socket.socket, command: Sequence[str | bytes | int]) -> Any:
    client.sendall(hiredis.pack_command(tuple(command)))
    reader = hiredis.Reader()
    while (reply := reader.gets()) is False:
        received = client.recv(65_536)
        assert received, "the server closed the connection"
        reader.feed(received)
    return reply


class Cluster:
    """Masters, each with its share of the slots; with `is_doubled`, a replica for each."""

    def __init__(self, binary: str, masters: int = 3, *, is_doubled: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="council-cluster-"))
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT_MS))
        self.nodes = [Server(binary, self.folder, *options) for _ in range(masters)]
        bounds = [SLOTS * number // masters for number in range(masters + 1)]
        for number, node in enumerate(self.nodes):
            assert node.run("CLUSTER", "ADDSLOTS", *range(bounds[number], bounds[number + 1])) == b"OK"
            assert node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1) == b"OK"
        self.replicas = [Server(binary, self.folder, *options) for _ in self.nodes if is_doubled]
        for node in (*self.nodes[1:], *self.replicas):
            node.run("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        wait_until(self._is_whole, "the nodes know of each other")
        for replica, node in zip(self.replicas, self.nodes, strict=False):
            assert replica.run("CLUSTER", "REPLICATE", node.id) == b"OK"
        for replica in self.replicas:
            wait_until(replica.is_synchronized, "the replica follows its master")

    def _is_whole(self) -> bool:
        nodes = (*self.nodes, *self.replicas)
        whole = ("ok", str(len(nodes)), str(SLOTS))
        infos = [info_fields(node.run("CLUSTER", "INFO")) for node in nodes]
        states = [(i["cluster_state"], i["cluster_known_nodes"], i["cluster_slots_assigned"]) for i in infos]
        return states == [whole] * len(nodes)

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def owner(self, key: str) -> Server:
        """The node that serves the key."""
        slot = key_slot(key.encode())
        for first, last, master, *_ in self.nodes[0].run("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"no node serves slot {slot}")

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Marks the slot as moving from one node to the other; no key moves."""
        assert target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id) == b"OK"
        assert source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id) == b"OK"

    def move(self, slot: int, source: Server, target: Server, *, ends: bool = True) -> None:
        """Moves a slot with its keys, while it is served. Without `ends` the slot stays marked as moving."""
        self.begin_move(slot, source, target)
        while names := source.run("CLUSTER", "GETKEYSINSLOT", slot, 10):
            for name in names:
                assert source.run("MIGRATE", "127.0.0.1", target.port, name, 0, 5_000) in (b"OK", b"NOKEY")
        if ends:
            for node in (target, source, *(node for node in self.nodes if node not in (source, target))):
                assert node.run("CLUSTER", "SETSLOT", slot, "NODE", target.id) == b"OK"

    def keys(self) -> dict[bytes, int]:
        """The time to live of each of the council's keys in seconds; -1 where it has none."""
        found = {}
        for node in self.masters():
            for name in node.run("KEYS", "council:*"):
                ttl = node.run("TTL", name)
                if isinstance(ttl, int) and ttl != -2:
                    found[name] = ttl
        return found

    def masters(self) -> list[Server]:
        """The nodes that run and are masters now."""
        nodes = (*self.nodes, *self.replicas)
        return [node for node in nodes if node.process.poll() is None and node.is_master()]

    def empty(self) -> None:
        for node in self.nodes:
            node.run("FLUSHALL")

    def close(self) -> None:
        for node in (*self.replicas, *self.nodes):
            node.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Watched:
    """A master, a replica, and three Sentinels that watch them."""

    def __init__(self, binary: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="council-sentinel-"))
        self.master = Server(binary, self.folder)
        self.replica = Server(binary, self.folder, "--replicaof", "127.0.0.1", str(self.master.port))
        wait_until(self.replica.is_synchronized, "the replica follows its master")
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 6000",
        )
        self.sentinels = [Server(binary, self.folder, *watch, sentinel=True) for _ in range(3)]
        wait_until(self._is_watched, "each Sentinel knows the replica and the others")

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def _is_watched(self) -> bool:
        for sentinel in self.sentinels:
            reply = sentinel.run("SENTINEL", "MASTER", SERVICE)
            facts = dict(zip(reply[::2], reply[1::2], strict=True))
            if (facts[b"num-slaves"], facts[b"num-other-sentinels"], facts[b"flags"]) != (b"1", b"2", b"master"):
                return False
        return True

    def wait_for_the_replica(self) -> None:
        """Returns when every Sentinel reports the replica as the master."""
        wait_until(self._has_failed_over, "the replica is master")

    def _has_failed_over(self) -> bool:
        return all(
            sentinel.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            == [b"127.0.0.1", str(self.replica.port).encode()]
            for sentinel in self.sentinels
        )

    def close(self) -> None:
        for server in (*self.sentinels, self.replica, self.master):
            server.close()
        shutil.rmtree(self.folder, ignore_errors=True)
