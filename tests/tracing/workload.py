"""What a program does with a client that tracing tools look at, step by step.

A step returns what it got, errors included: that must not depend on the client either. No
step depends on time, so that a tool has the same to tell each time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE_S = 20.0
RETRIES = 2
SCRIPT = "return {KEYS[1], ARGV[1], redis.call('incr', KEYS[1])}"
FAILING_SCRIPT = "return redis.error_reply('MINE it was wrong')"


@dataclass(frozen=True)
class Place:
    """A class of clients, and where its servers are."""

    client_class: Any
    host: str
    port: int
    unixsocket: str
    closed_port: int

    def client(self, **options: Any) -> Any:
        """Make a client that reports every error at once."""
        given = {"host": self.host, "port": self.port, "db": 1, **options}
        return self.client_class(retry=Retry(NoBackoff(), 0), **given)


def raised(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Return which error a call has raised."""
    try:
        return f"no error but {call(*args, **kwargs)!r}"
    except redis.DataError as error:  # its text is hiredis's own where that packs
        return type(error).__name__
    except redis.RedisError as error:
        return f"{type(error).__name__}: {error}"


def commands(client: Any, place: Place) -> Any:
    return (
        client.set("key", "value"),
        client.get("key"),
        client.set("key", "other", ex=1000, get=True),
        client.mget("key", "nothing"),
        client.hset("hash", mapping={"field": 1}),
        client.hgetall("hash"),
        client.get("nothing"),
        client.config_get("maxmemory"),
    )


def commands_by_name(client: Any, place: Place) -> Any:
    return (
        client.execute_command("SET", "key", 1.5),
        client.execute_command("get", "key"),
        client.execute_command("Incr", "counter"),
        client.execute_command("CLIENT GETNAME"),
        client.execute_command("CLIENT", "GETNAME"),
        client.execute_command("GET", "key", NEVER_DECODE=True),
        client.execute_command("ECHO", b"\xff\x00"),
        client.execute_command("ECHO", "x" * 3000),
    )


def errors(client: Any, place: Place) -> Any:
    client.set("text", "no number")
    return (
        raised(client.lpush, "text", "item"),
        raised(client.incr, "text"),
        raised(client.execute_command, "NOSUCH", "thing"),
        raised(client.execute_command, "GET"),
        raised(client.execute_command, "SET", "key", ["no", "string"]),
        client.get("text"),
    )


def pipeline(client: Any, place: Place) -> Any:
    with client.pipeline(transaction=False) as pipe:
        empty = pipe.execute()
        first = pipe.set("key", 1).incr("key").execute_command("get", "key").execute()
        return empty, first, pipe.get("key").execute()


def transaction(client: Any, place: Place) -> Any:
    with client.pipeline() as pipe:
        return pipe.set("key", 1).incr("key").get("key").execute()


def pipeline_with_an_error(client: Any, place: Place) -> Any:
    client.set("text", "no number")
    got = []
    for in_transaction in (False, True):
        with client.pipeline(transaction=in_transaction) as pipe:
            got.append(raised(pipe.set("key", 1).incr("text").get("key").execute))
            told = pipe.set("key", 1).incr("text").execute(raise_on_error=False)
            got.append(list(map(repr, told)))
            got.append(raised(pipe.execute_command("NOSUCH").get("key").execute))
    return got


def watch(client: Any, place: Place) -> Any:
    with client.pipeline() as pipe:
        pipe.watch("key")
        value = pipe.get("key")
        error = raised(pipe.execute_command, "NOSUCH")
        pipe.multi()
        pipe.set("key", 5)
        return value, error, pipe.execute()


def watch_in_vain(client: Any, place: Place) -> Any:
    with client.pipeline() as pipe:
        pipe.watch("key")
        client.set("key", "meanwhile")
        pipe.multi()
        pipe.get("key")
        return raised(pipe.execute)


def watch_and_leave(client: Any, place: Place) -> Any:
    with client.pipeline() as pipe:
        pipe.watch("key")
        return pipe.get("key"), pipe.unwatch()


def transaction_of_a_function(client: Any, place: Place) -> Any:
    def double(pipe: Any) -> None:
        value = int(pipe.get("number"))
        pipe.multi()
        pipe.set("number", value * 2)

    client.set("number", 4)
    return client.transaction(double, "number"), client.get("number")


def script(client: Any, place: Place) -> Any:
    registered = client.register_script(SCRIPT)
    client.script_flush()
    got = [registered(keys=["count"], args=["x"]), client.eval(SCRIPT, 1, "count", "y")]
    with client.pipeline() as pipe:
        registered(keys=["count"], args=["z"], client=pipe)
        got.append(pipe.execute())
    return got, raised(client.eval, FAILING_SCRIPT, 0), raised(client.evalsha, "0" * 40, 0)


def pubsub(client: Any, place: Place) -> Any:
    with contextlib.closing(client.pubsub()) as subscriber:
        subscriber.subscribe("channel")
        got = [subscriber.get_message(timeout=PATIENCE_S)]
        subscriber.psubscribe("chan*")
        got += [subscriber.get_message(timeout=PATIENCE_S), client.publish("channel", "news")]
        got += [subscriber.get_message(timeout=PATIENCE_S) for _ in range(2)]
        subscriber.unsubscribe("channel")
        return got, subscriber.get_message(timeout=PATIENCE_S)


def lock(client: Any, place: Place) -> Any:
    held = client.lock("lock", timeout=1000, blocking=False)
    taken = held.acquire(token="first")
    other = client.lock("lock", timeout=1000, blocking=False)
    return taken, other.acquire(token="second"), held.owned(), held.extend(10), held.release()


def modules(client: Any, place: Place) -> Any:
    """The server may know of no JSON: the commands are sent, and the errors the same."""
    with client.json().pipeline() as pipe:
        pipe.get("document")
        piped = raised(pipe.execute)
    return (
        raised(client.json().set, "document", "$", {"a": 1}),
        raised(client.json().get, "document"),
        piped,
    )


def iteration(client: Any, place: Place) -> Any:
    client.sadd("set", "only")
    return list(client.sscan_iter("set")), list(client.scan_iter("nothing*", count=1000))


def anew(client: Any, place: Place) -> Any:
    """On a connection that has to be made."""
    client.connection_pool.disconnect()
    return client.get("key"), client.connection_pool.disconnect(), client.ping()


def refused(client: Any, place: Place) -> Any:
    got = []
    for retry in (Retry(NoBackoff(), 0), Retry(NoBackoff(), RETRIES)):
        options = {"host": place.host, "port": place.closed_port, "db": 3, "retry": retry}
        with contextlib.closing(place.client_class(**options)) as absent:
            got += [raised(absent.get, "key"), raised(absent.pipeline().get("key").execute)]
            got.append(raised(absent.pipeline(transaction=False).get("key").execute))
    return got


def over_a_unix_socket(client: Any, place: Place) -> Any:
    with contextlib.closing(place.client(unix_socket_path=place.unixsocket, db=2)) as other:
        piped = other.pipeline().get("key").execute()
        return other.set("key", "there"), other.get("key"), piped, raised(other.incr, "key")


def by_url(client: Any, place: Place) -> Any:
    url = f"redis://{place.host}:{place.port}/4"
    with contextlib.closing(place.client_class.from_url(url, decode_responses=True)) as other:
        return other.set("key", "text"), other.get("key"), other.pipeline().get("key").execute()


def on_one_connection(client: Any, place: Place) -> Any:
    with place.client(single_connection_client=True, client_name="alone") as other:
        return other.set("key", 1), other.client_getname(), raised(other.lpush, "key", 1)


STEPS: tuple[Callable[[Any, Place], Any], ...] = (
    commands,
    commands_by_name,
    errors,
    pipeline,
    transaction,
    pipeline_with_an_error,
    watch,
    watch_in_vain,
    watch_and_leave,
    transaction_of_a_function,
    script,
    pubsub,
    lock,
    modules,
    iteration,
    anew,
    refused,
    over_a_unix_socket,
    by_url,
    on_one_connection,
)
