"""Packages that name redis-py's classes themselves, served by cpool.install().

Each runs in a process of its own, so that it can be imported before the installation and
after it; what it does is checked there.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from cpool.tools.servers import EmbeddedServer

PROLOGUE = """
import sys
import redis
import cpool

url = sys.argv[1]

def assert_ours(client, *pools):
    for pool in (client.connection_pool, *pools):
        assert type(pool) is cpool.ConnectionPool, type(pool)
        assert cpool.Connection in pool.connection_class.__mro__, pool.connection_class
        assert pool.connection_class.__module__.startswith(("cpool.", "kombu."))
"""

CELERY = """
import celery
import kombu
import celery.backends.redis
import kombu.transport.redis
---
app = celery.Celery("app", broker=url, backend=url)
app.conf.broker_transport_options = {"global_keyprefix": "prefix:" if PREFIX else ""}

@app.task(name="add")
def add(x, y):
    return x + y

sent = add.delay(1, 2)
with app.connection_for_read() as connection:
    queue = connection.SimpleQueue("celery")
    message = queue.get(timeout=10)
    assert message.headers["id"] == sent.id and message.payload[0] == [1, 2]
    message.ack()
    channel = queue.consumer.channel
    assert_ours(channel.client, channel.pool, channel.async_pool)
    assert isinstance(channel.client, redis.Redis)
    assert (type(channel.client) is cpool.Redis) is not PREFIX
    queue.close()

app.backend.store_result(sent.id, 3, "SUCCESS")
assert sent.get(timeout=10) == 3
assert_ours(app.backend.client)
assert type(app.backend.client) is cpool.Redis
for derived in celery.backends.redis, kombu.transport.redis:
    assert issubclass(derived.SentinelManagedSSLConnection, redis.SSLConnection)
"""

CELERY_WORKER = """
import celery
import celery.backends.redis
import kombu.transport.redis
from celery.contrib.testing.worker import start_worker
---
app = celery.Celery("app", broker=url, backend=url)

@app.task(name="add")
def add(x, y):
    return x + y

cpool.fast_path.reset_stats()
with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR") as worker:
    channel = worker.consumer.connection.default_channel
    assert add.delay(1, 2).get(timeout=20) == 3
    assert celery.group(add.s(i, i) for i in range(5)).delay().get(timeout=20) == [0, 2, 4, 6, 8]
assert_ours(app.backend.client)
assert cpool.fast_path.stats().taken > 0
"""

DJANGO = """
import django
from django.conf import settings
import django.core.cache.backends.redis
---
backend = "django.core.cache.backends.redis.RedisCache"
settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": url}})
django.setup()
from django.core.cache import cache

cache.set("key", {"a": 1}, timeout=60)
assert cache.get("key") == {"a": 1}
assert cache.add("n", 1) and cache.incr("n", 1) == 2
client = cache._cache.get_client()
assert type(client) is cpool.Redis
assert_ours(client)
"""

DJANGO_REDIS = """
import django
from django.conf import settings
import django_redis.cache
---
cache = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": url}
settings.configure(CACHES={"default": cache})
django.setup()
from django.core.cache import cache
import django_redis

client = django_redis.get_redis_connection("default")
cache.set("key", {"a": 1}, timeout=60)
assert cache.get("key") == {"a": 1}
assert type(client) is cpool.Redis
assert_ours(client)
"""

DJANGO_REDIS_SENTINEL = """
import django
from django.conf import settings
import django_redis.cache
---
cache = {
    "BACKEND": "django_redis.cache.RedisCache",
    "LOCATION": "redis://mymaster/0",
    "OPTIONS": {
        "CLIENT_CLASS": "django_redis.client.SentinelClient",
        "SENTINELS": [("localhost", 26379)],
    },
}
settings.configure(
    CACHES={"default": cache},
    DJANGO_REDIS_CONNECTION_FACTORY="django_redis.pool.SentinelConnectionFactory",
)
django.setup()
import django_redis

client = django_redis.get_redis_connection("default")  # asserts that the pool is a sentinel's
assert type(client) is cpool.Redis
assert type(client.connection_pool) is cpool.SentinelConnectionPool
assert client.connection_pool.connection_class is cpool.SentinelManagedConnection
"""

RQ = """
import pickle
import rq
import rq.connections
import rq.scheduler
---
client = redis.Redis.from_url(url)
assert_ours(client)
queue = rq.Queue(connection=client)
job = queue.enqueue("operator.add", 1, 2)
assert rq.SimpleWorker([queue], connection=client).work(burst=True, logging_level="ERROR")
job.refresh()
assert job.return_value() == 3

forked = queue.enqueue("operator.add", 3, 4)
assert rq.Worker([queue], connection=client).work(burst=True, logging_level="ERROR")
assert forked.return_value(refresh=True) == 7

parts = rq.connections.parse_connection(client)
client_class, connection_class, kwargs = pickle.loads(pickle.dumps(parts))
assert (client_class, connection_class) == (cpool.Redis, cpool.Connection)
scheduler = rq.scheduler.RQScheduler([queue], connection=client)
assert scheduler.connection.ping()
assert_ours(scheduler.connection)
"""

OPENTELEMETRY = """
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
RedisInstrumentor().instrument(tracer_provider=provider)
---
client = redis.Redis.from_url(url)
client.set("a", 1)
client.pipeline().get("a").exists("a").execute()
client.json().pipeline().execute_command("GET", "a").execute()
names = [span.name for span in exporter.get_finished_spans()]
assert names == ["SET", "GET EXISTS", "GET"], names
assert_ours(client)
"""

FAKEREDIS = """
import warnings
import fakeredis
---
warnings.simplefilter("ignore", DeprecationWarning)
client = fakeredis.FakeRedis()
assert client.set("key", 1) and client.get("key") == b"1"
assert type(client.connection_pool) is cpool.ConnectionPool
assert fakeredis.FakeRedis.from_url(url).ping()
"""

CASES = {
    "celery": ("celery", CELERY.replace("PREFIX", "False")),
    "celery with a key prefix": ("celery", CELERY.replace("PREFIX", "True")),
    "a celery worker": ("celery", CELERY_WORKER),
    "django": ("django", DJANGO),
    "django-redis": ("django_redis", DJANGO_REDIS),
    "django-redis with sentinel": ("django_redis", DJANGO_REDIS_SENTINEL),
    "rq": ("rq", RQ),
    "fakeredis": ("fakeredis", FAKEREDIS),
    "opentelemetry": ("opentelemetry.instrumentation.redis", OPENTELEMETRY),
}


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


@pytest.mark.parametrize("first", ["install", "imports"])
@pytest.mark.parametrize("case", CASES)
def test_a_package_is_served(fresh_db: EmbeddedServer, case: str, first: str) -> None:
    package, source = CASES[case]
    if not is_installed(package):
        pytest.skip(f"{package} is not installed")
    imports, body = source.split("---")
    steps = ["cpool.install()\n", imports]
    program = PROLOGUE + "".join(steps if first == "install" else steps[::-1]) + body
    done = subprocess.run(
        [sys.executable, "-c", program, fresh_db.url],
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
