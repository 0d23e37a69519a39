"""A Tidegate worker straight on LeaseService, written from docs/protocol.md.

    pip install -r requirements.txt
    python -m grpc_tools.protoc -I ../../proto --python_out=gen --grpc_python_out=gen \\
        ../../proto/tidegate/v1/common.proto ../../proto/tidegate/v1/lease.proto
    PYTHONPATH=gen python worker.py --router 127.0.0.1:7600 --queue report --slots 4

One thread keeps the leases and owns all state (Worker); it sleeps until something arrives or is due. Another reads the
stream; handlers run in a pool, one thread a slot, and report their end. So a handler that computes delays no renewal, as
long as it lets go of the interpreter's lock now and then, as Python code does.
"""

import argparse
import itertools
import json
import queue
import random
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
from tidegate.v1 import lease_pb2 as pb
from tidegate.v1 import lease_pb2_grpc

IDLE_TTL_S = 10.0  # a quarter of it is how often a worker without leases says that it lives
TIMEOUT_DEFAULT_MS = 300_000
ANSWER_MAX_S = 5.0
SETTLEMENTS_MAX = 1_000
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
RESULT_BYTES_MAX = 64 * 1024
CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
]


# --- what a handler sees ---------------------------------------------------------------------------------------------


class Retry(Exception):
    """Try again by the queue's policy."""


class Failed(Exception):
    """No attempt will help."""


class Invalid(Exception):
    """The payload is not what this queue carries."""


@dataclass
class Context:
    job_id: str
    fence: int
    attempt: int
    headers: dict
    stop: threading.Event  # set when the handler is to end: lease lost, cancelled, time up


def report(context, payload):
    """The example's handler: adds up numbers, taking as long as it is told."""
    try:
        numbers = json.loads(payload)["numbers"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"expected {{\"numbers\": [...]}}: {error}") from error
    if context.attempt == 1 and "fail-once" in context.headers:
        raise Retry("told to fail at first")
    if context.stop.wait(float(context.headers.get("seconds", 0))):
        raise Retry("told to stop")
    return {"sum": sum(numbers), "attempt": context.attempt}


# --- the protocol ----------------------------------------------------------------------------------------------------


@dataclass
class Lease:
    """One lease that this process holds: running, stopping, or settled and not answered yet."""

    queue: str
    ttl: float
    believed_until: float
    stop_at: float  # by its timeout or the job's deadline
    started: float
    stop: threading.Event = field(default_factory=threading.Event)
    ours: bool = True  # False: the result is discarded
    timed_out: bool = False
    settlement: pb.Settlement = None
    sent_at: float = None  # of the settlement; None: to be sent
    unknowns: int = 0
    not_before: float = 0.0

    @property
    def fence_at(self):
        return self.believed_until - self.ttl / 5


class Stream:
    """One Lease call. Dropping it closes it: nothing that still arrives is looked at."""

    def __init__(self, address, events):
        self.session = str(uuid.uuid4())
        self.welcomed = False
        self.seq = 0  # newest Grants.seq
        self.sent = {}  # counter -> when it was sent
        self.renewal = None  # (counter, names) that waits for its answer
        self.last_renewal = None
        self.settling = 0
        self.offered = {}
        self._up = queue.Queue()
        self._channel = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        self._call = lease_pb2_grpc.LeaseServiceStub(self._channel).Lease(iter(self._up.get, None))
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events):
        try:
            for response in self._call:
                events.put((self, response))
            events.put((self, "the router closed the stream"))
        except grpc.RpcError as error:
            events.put((self, f"{error.code().name}: {error.details()}"))

    def send(self, **message):
        self._up.put(pb.LeaseRequest(**message))

    def count(self, now):
        counter = len(self.sent) + 1
        self.sent[counter] = now
        return counter

    def close(self):
        self._up.put(None)
        self._call.cancel()
        self._channel.close()

    def finish(self):
        """After a bye: let it get out."""
        self._up.put(None)
        time.sleep(0.2)
        self._channel.close()


class Worker:
    def __init__(self, routers, handlers, slots):
        self.routers = itertools.cycle(routers)
        self.handlers = handlers
        self.slots = slots
        self.incarnation = str(uuid.uuid4())
        self.events = queue.Queue()
        self.leases = {}  # (job_id, fence) -> Lease
        self.closed = []  # sessions to name in the next hello
        self.stream = None
        self.failures = 0
        self.connect_at = 0.0
        self.draining = False
        self.pool = ThreadPoolExecutor(slots)

    def run(self):
        while True:
            now = time.monotonic()
            if self.stream is None and now >= self.connect_at:
                self.open()
            self.tick(now)
            if self.stream and self.stream.welcomed:
                self.flush(now)
            if self.draining and not self.leases:
                if self.stream and self.stream.welcomed:
                    self.stream.send(bye=pb.Bye())
                    self.stream.finish()
                return
            try:
                self.handle(*self.events.get(timeout=max(0.0, min(self.due(now) - now, 0.5))))
            except queue.Empty:
                pass

    def drain(self):
        """From a signal: finish what runs, take nothing new."""
        self.events.put(("drain", None))

    # -- the stream

    def open(self):
        self.stream = Stream(next(self.routers), self.events)
        hello = pb.Hello(
            session=self.stream.session,
            incarnation=self.incarnation,
            replaces=self.closed,
            reclaim=[ref(key) for key in self.leases],
            queues=list(self.handlers),
            slots=self.slots,
            labels={"language": "python"},
        )
        self.stream.send(hello=hello)

    def close(self, now, why):
        print(f"stream ended: {why}", flush=True)
        self.closed = (self.closed + [self.stream.session])[-100:]
        self.stream.close()
        self.stream = None
        for lease in self.leases.values():
            lease.sent_at = None  # unanswered settlements are sent again
        self.connect_at = now + random.uniform(0, min(2.0, 0.05 * 2**self.failures))
        self.failures += 1

    def handle(self, source, message):
        now = time.monotonic()
        if source == "drain":
            self.draining = True
        elif source == "ended":
            self.ended(now, *message)
        elif source is not self.stream:
            pass  # of a stream that we have closed
        elif isinstance(message, str):
            self.close(now, message)
        else:
            kind = message.WhichOneof("message")
            if kind:  # else of a newer router
                getattr(self, f"on_{kind}")(now, getattr(message, kind))

    def on_welcome(self, now, welcome):
        print(f"ready router={welcome.router}", flush=True)
        self.stream.welcomed = True
        self.failures = 0
        self.closed = []
        self.lose(welcome.lost)

    def on_go_away(self, now, go_away):
        self.close(now, f"go away: {go_away.reason}")

    # -- grants

    def on_grants(self, now, grants):
        self.stream.seq = max(self.stream.seq, grants.seq)
        sent = self.stream.sent.get(grants.counter)
        for grant in grants.grants:
            key = (grant.job_id, grant.fence)
            if key in self.leases:
                continue  # a repeat
            ttl = grant.lease_ttl_ms / 1000
            time_ms = grant.timeout_ms or TIMEOUT_DEFAULT_MS
            if grant.deadline_ms:
                time_ms = min(time_ms, max(0, grant.deadline_ms - grants.store_clock_ms))
            self.stream.offered[grant.queue] = max(0, self.stream.offered.get(grant.queue, 0) - 1)
            full = self.running() >= self.slots
            # A counter that we never sent: the lease's time is not known.
            believed = sent + ttl if sent is not None else now
            lease = Lease(grant.queue, ttl, believed, now + time_ms / 1000, now)
            self.leases[key] = lease
            if full or self.draining or now >= lease.fence_at or time_ms == 0:
                self.settle(key, released=pb.Released(error="not started"))
                continue
            context = Context(grant.job_id, grant.fence, grant.attempt, dict(grant.headers), lease.stop)
            self.pool.submit(self.attempt, key, self.handlers[grant.queue], context, grant.payload)

    def attempt(self, key, handler, context, payload):
        """On a thread of the pool."""
        try:
            result = handler(context, payload)
            outcome = {"succeeded": pb.Succeeded(result=json.dumps(result).encode()[:RESULT_BYTES_MAX])}
        except Failed as error:
            outcome = {"failed": pb.Failed(error=str(error)), "failure_class": pb.FAILURE_CLASS_JOB}
        except Invalid as error:
            outcome = {"invalid": pb.Invalid(error=str(error)), "failure_class": pb.FAILURE_CLASS_JOB}
        except Exception as error:  # pylint: disable=broad-except  # one handler's mistake must not end the worker
            kind = pb.FAILURE_CLASS_ERROR if isinstance(error, Retry) else pb.FAILURE_CLASS_JOB
            outcome = {"retry": pb.Retry(error=str(error)), "failure_class": kind}
        self.events.put(("ended", (key, outcome)))

    def ended(self, now, key, outcome):
        lease = self.leases[key]
        if not lease.ours:
            outcome = {"released": pb.Released(error="lease lost, result discarded")}
        elif lease.timed_out:
            outcome = {"retry": pb.Retry(error="timed out"), "failure_class": pb.FAILURE_CLASS_ERROR}
        self.settle(key, run_ms=int((now - lease.started) * 1000), **outcome)

    # -- time

    def tick(self, now):
        for key, lease in self.leases.items():
            if lease.settlement:
                if lease.sent_at is not None and now - lease.sent_at >= ANSWER_MAX_S:
                    lease.sent_at = None
                continue
            if lease.ours and now >= lease.fence_at:
                print(f"self-fence {key[0]}", flush=True)
                lease.ours = False
                lease.stop.set()
            if now >= lease.stop_at and not lease.stop.is_set():
                lease.timed_out = True
                lease.stop.set()
        stream = self.stream
        if stream and stream.renewal:
            sent = stream.sent[stream.renewal[0]]
            if now - sent >= self.shortest_ttl() / 2:
                self.close(now, "no answer to a renewal")

    def due(self, now):
        """When tick or flush has something to do."""
        times = [now + 0.5]
        if self.stream is None:
            times.append(self.connect_at)
        elif self.stream.welcomed and not self.stream.renewal:
            times.append((self.stream.last_renewal or 0) + self.shortest_ttl() / 4)
        for lease in self.leases.values():
            if lease.settlement is None:
                times += [lease.fence_at] if lease.ours else []
                times += [lease.stop_at] if not lease.stop.is_set() else []
            elif lease.sent_at is None:
                times.append(lease.not_before)
        return min(times)

    def shortest_ttl(self):
        return min((lease.ttl for lease in self.leases.values()), default=IDLE_TTL_S)

    # -- renewals

    def on_renewed(self, now, renewed):
        waiting = self.stream.renewal
        if not waiting or renewed.counter < waiting[0]:
            return
        self.stream.renewal = None
        refused = {(ref.job_id, ref.fence) for ref in (*renewed.lost, *renewed.cancelled, *renewed.unknown)}
        sent = self.stream.sent[waiting[0]]
        for key in waiting[1]:
            if key in self.leases and key not in refused:
                lease = self.leases[key]
                lease.believed_until = max(lease.believed_until, sent + lease.ttl)
        self.lose([*renewed.lost, *renewed.cancelled])

    def on_cancel(self, now, cancel):
        self.lose(cancel.leases)

    def lose(self, refs):
        for lost in refs:
            lease = self.leases.get((lost.job_id, lost.fence))
            if lease and not lease.settlement:
                lease.ours = False
                lease.stop.set()

    # -- settling

    def settle(self, key, **outcome):
        lease = self.leases[key]
        lease.settlement = pb.Settlement(lease=ref(key), **outcome)

    def on_settled(self, now, settled):
        for item in settled.items:
            key = (item.lease.job_id, item.lease.fence)
            lease = self.leases.get(key)
            if lease is None or lease.settlement is None:
                continue
            if item.result == pb.SETTLE_RESULT_UNKNOWN:
                lease.sent_at = None
                lease.not_before = now + min(1.0, 0.05 * 2**lease.unknowns)
                lease.unknowns += 1
            else:
                del self.leases[key]

    # -- what is to be said

    def running(self):
        return sum(1 for lease in self.leases.values() if lease.settlement is None)

    def flush(self, now):
        stream = self.stream
        renew_at = 0 if stream.last_renewal is None else stream.last_renewal + self.shortest_ttl() / 4
        if stream.renewal is None and now >= renew_at:
            counter, names = stream.count(now), list(self.leases)
            stream.renewal, stream.last_renewal = (counter, names), now
            stream.send(renew=pb.Renew(counter=counter, leases=[ref(key) for key in names]))
        ready = [
            lease
            for lease in self.leases.values()
            if lease.settlement and lease.sent_at is None and now >= lease.not_before
        ][:SETTLEMENTS_MAX]
        if ready:
            stream.send(settle=pb.Settle(settlements=[lease.settlement for lease in ready]))
            for lease in ready:
                lease.sent_at = now
        self.offer(now)

    def offer(self, now):
        """Free slots, divided evenly over the queues: the router may use all credit at once."""
        stream, names = self.stream, list(self.handlers)
        free = 0 if self.draining else max(0, self.slots - self.running())
        offers = {name: free // len(names) + (at < free % len(names)) for at, name in enumerate(names)}
        if offers != stream.offered:
            credits = [pb.Credit(queue=name, free=n, last_grant_seq=stream.seq) for name, n in offers.items()]
            stream.send(credits=pb.Credits(counter=stream.count(now), credits=credits))
            stream.offered = offers


def ref(key):
    from tidegate.v1 import common_pb2

    return common_pb2.LeaseRef(job_id=key[0], fence=key[1])


def main():
    parser = argparse.ArgumentParser(description="Runs the example's handler for each job of a queue.")
    parser.add_argument("--router", action="append", required=True, help="host:port; give it once for each")
    parser.add_argument("--queue", action="append", required=True)
    parser.add_argument("--slots", type=int, default=4)
    args = parser.parse_args()
    worker = Worker(args.router, {name: report for name in args.queue}, args.slots)
    signal.signal(signal.SIGTERM, lambda *_: worker.drain())
    signal.signal(signal.SIGINT, lambda *_: worker.drain())
    worker.run()


if __name__ == "__main__":
    main()
