"""Tracing tools, each told to keep its spans in memory, and tools of our own making.

A tool has start(), step() as a context, and entries(): plain values, in the tool's order, of
which what differs from run to run (ids, times, stack traces) is left out and a parent is
the position of another entry. One that can be taken off again has stop(). One that need not
be tried both before and after cpool is imported, and late, has its `orders`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Entry = dict[str, Any]
ORDERS = ("before", "after", "late")

# What our connections give redis-py's methods though its own callers leave it out; and ours
# have seen to the health already, since that may dial anew.
DEFAULTS = (
    ("disable_decoding", False),
    ("disconnect_on_error", True),
    ("push_request", False),
    ("check_health", True),
    ("check_health", False),
)


def positions(ids: Sequence[Any]) -> Callable[[Any], int | None]:
    """Return a function from an id to its position, None for an id that is not there."""
    return {one: position for position, one in enumerate(ids)}.get


def without(values: Any, *left_out: str) -> Entry:
    """Return a dictionary without the keys that begin with any of these words."""
    return {key: value for key, value in values.items() if not key.startswith(left_out)}


class OpenTelemetry:
    """opentelemetry-instrumentation-redis on all clients, with hooks."""

    modules: tuple[str, ...] = ("opentelemetry.instrumentation.redis", "opentelemetry.sdk")

    def start(self) -> None:
        from opentelemetry.instrumentation.redis import RedisInstrumentor
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.instrumentor: Any = RedisInstrumentor()
        self.instrument()

    def instrument(self) -> None:
        self.instrumentor.instrument(**self.options())

    def options(self) -> Entry:
        return {
            "tracer_provider": self.provider,
            "request_hook": self.note_request,
            "response_hook": self.note_response,
        }

    @staticmethod
    def note_request(span: Any, instance: Any, args: Any, kwargs: Any) -> None:
        span.set_attribute("asked", f"{type(instance).__name__} {args!r} {kwargs!r}")

    @staticmethod
    def note_response(span: Any, instance: Any, response: Any) -> None:
        span.set_attribute("answered", f"{type(instance).__name__} {response!r}")

    def stop(self) -> None:
        self.instrumentor.uninstrument()

    def step(self, name: str) -> Any:
        return self.provider.get_tracer("steps").start_as_current_span(name)

    def entries(self) -> list[Entry]:
        spans = self.exporter.get_finished_spans()
        position = positions([span.context.span_id for span in spans])
        return [
            {
                "name": span.name,
                "kind": span.kind.name,
                "attributes": dict(span.attributes),
                "status": [span.status.status_code.name, span.status.description],
                "events": [
                    [event.name, without(event.attributes, "exception.stacktrace")]
                    for event in span.events
                ],
                "parent": span.parent and position(span.parent.span_id),
            }
            for span in spans
        ]


class StableOpenTelemetry(OpenTelemetry):
    """The same with both the old and the stable names of attributes."""

    orders = ("before",)

    def instrument(self) -> None:
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "database/dup,http/dup"
        super().instrument()


class OpenTelemetryOfAClient(OpenTelemetry):
    """opentelemetry-instrumentation-redis on one client that is there already."""

    orders = ("late",)

    def instrument(self) -> None:
        pass

    def see(self, client: Any) -> None:
        self.instrumentor.instrument_client(client, **self.options())
        self.client = client

    def stop(self) -> None:
        self.instrumentor.uninstrument_client(self.client)


class Sentry:
    """sentry-sdk, which sends its transactions to a list; commands on "key" are a cache's."""

    modules: tuple[str, ...] = ("sentry_sdk",)

    def start(self) -> None:
        import sentry_sdk
        from sentry_sdk.integrations.redis import RedisIntegration
        from sentry_sdk.transport import Transport

        events: list[Entry] = []

        class InMemory(Transport):
            def capture_envelope(self, envelope: Any) -> None:
                events.extend(filter(None, (item.payload.json for item in envelope.items)))

        self.events = events
        sentry_sdk.init(
            dsn="http://key@localhost/1",
            transport=InMemory,
            traces_sample_rate=1.0,
            send_default_pii=True,
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[RedisIntegration(cache_prefixes=["key"])],
        )

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        import sentry_sdk

        with sentry_sdk.isolation_scope(), sentry_sdk.start_transaction(name=name):
            yield

    def entries(self) -> list[Entry]:
        return [entry for event in self.events for entry in self._of_a_transaction(event)]

    @staticmethod
    def _of_a_transaction(event: Entry) -> list[Entry]:
        names = ("op", "description", "status", "origin", "tags")
        crumbs = event.get("breadcrumbs", {}).get("values", [])
        position = positions([span["span_id"] for span in event["spans"]])
        spans = [
            {
                **{name: span.get(name) for name in names},
                "data": without(span["data"], "thread."),
                "parent": position(span["parent_span_id"]),
            }
            for span in event["spans"]
        ]
        told = [without(crumb, "timestamp") for crumb in crumbs]
        return [{"name": event["transaction"], "breadcrumbs": told}, *spans]


class DDTrace:
    """ddtrace, whose traces end in a filter that keeps them."""

    modules: tuple[str, ...] = ("ddtrace",)

    def start(self) -> None:
        for feature in ("INSTRUMENTATION_TELEMETRY", "REMOTE_CONFIGURATION", "CRASHTRACKING"):
            os.environ[f"DD_{feature}_ENABLED"] = "false"
        os.environ.update(
            DD_TRACE_AGENT_URL="http://127.0.0.1:1",  # no agent that runs here is asked
            DD_TRACE_STARTUP_LOGS="false",
            DD_REDIS_RESOURCE_ONLY_COMMAND="false",
        )
        import ddtrace
        from ddtrace.trace import TraceFilter, tracer

        spans: list[Any] = []

        class Keep(TraceFilter):
            def process_trace(self, trace: Any) -> None:
                spans.extend(trace)  # none is left to be sent

        self.spans = spans
        self.tracer: Any = tracer
        tracer.configure(trace_processors=[Keep()])
        ddtrace.patch(redis=True)

    def stop(self) -> None:
        from ddtrace.contrib.internal.redis.patch import unpatch

        unpatch()

    def step(self, name: str) -> Any:
        return self.tracer.trace(name)

    def entries(self) -> list[Entry]:
        position = positions([span.span_id for span in self.spans])
        names = ("name", "resource", "service", "span_type", "error")
        volatile = ("_dd.", "runtime-id", "process_id", "error.stack")
        return [
            {
                **{name: getattr(span, name) for name in names},
                "tags": without(span.get_tags(), *volatile),
                "metrics": without(span.get_metrics(), *volatile),
                "parent": position(span.parent_id),
            }
            for span in self.spans
        ]


class ElasticAPM:
    """elastic-apm, whose events are kept before they come to its transport."""

    modules: tuple[str, ...] = ("elasticapm",)

    def start(self) -> None:
        import elasticapm

        events: list[tuple[str, Entry]] = []

        class Client(elasticapm.Client):  # type: ignore[misc]
            def start_threads(self) -> None:
                pass

            def queue(self, event_type: str, data: Entry, flush: bool = False) -> None:
                events.append((event_type, data))

        self.events = events
        self.client = Client(
            service_name="tests",
            cloud_provider=False,
            central_config=False,
            metrics_interval="0ms",
            span_compression_enabled=False,  # it joins what was quick
            span_stack_trace_min_duration="-1ms",
            transaction_max_spans=1000,
        )
        elasticapm.instrument()

    def stop(self) -> None:
        import elasticapm

        elasticapm.uninstrument()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.client.begin_transaction("step")
        yield
        self.client.end_transaction(name)

    def entries(self) -> list[Entry]:
        position = positions([data["id"] for _, data in self.events])
        volatile = ("id", "transaction_id", "trace_id", "parent_id", "timestamp", "duration")
        return [
            {
                "type": event_type,
                **without(data, *volatile),
                "parent": position(data.get("parent_id")),
            }
            for event_type, data in self.events
        ]


class NewRelic:
    """newrelic in developer mode, which sends nothing. It has to be there before redis-py."""

    modules: tuple[str, ...] = ("newrelic",)
    orders = ("before",)

    def start(self) -> None:
        os.environ.update(
            NEW_RELIC_DEVELOPER_MODE="true",
            NEW_RELIC_APP_NAME="tests",
            NEW_RELIC_LICENSE_KEY="0" * 40,
            NEW_RELIC_LOG_LEVEL="critical",
        )
        from newrelic import agent
        from newrelic.core.stats_engine import StatsEngine

        agent.initialize()
        utilization = agent.global_settings().utilization
        for name in [name for name in vars(utilization) if name.startswith("detect_")]:
            setattr(utilization, name, False)  # it need not ask the network where it runs
        self.agent: Any = agent
        self.application: Any = agent.register_application(timeout=10.0)
        self.roots: list[Any] = []
        record = StatsEngine.record_transaction

        def keep(engine: Any, transaction: Any) -> Any:
            self.roots.append(transaction.root)
            return record(engine, transaction)

        StatsEngine.record_transaction = keep

    def step(self, name: str) -> Any:
        return self.agent.BackgroundTask(self.application, name)

    def entries(self) -> list[Entry]:
        return [entry for root in self.roots for entry in self._flat(root, 0)]

    def _flat(self, node: Any, depth: int) -> list[Entry]:
        names = ("name", "product", "operation", "target", "instance_hostname")
        names += ("port_path_or_id", "database_name")
        own = {name: getattr(node, name, None) for name in names}
        below = [entry for child in node.children for entry in self._flat(child, depth + 1)]
        return [{"type": type(node).__name__, "depth": depth, **own}, *below]


class Metrics:
    """redis-py's own metrics: of each series its name, attributes and count."""

    modules: tuple[str, ...] = ("redis.observability.providers", "opentelemetry.sdk.metrics")

    def start(self) -> None:
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from redis.observability.config import MetricGroup, OTelConfig
        from redis.observability.providers import get_observability_instance

        self.reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([self.reader]))
        self.instance: Any = get_observability_instance()
        self.instance.init(OTelConfig(metric_groups=list(MetricGroup)))

    def stop(self) -> None:
        from redis.observability.recorder import reset_collector

        self.instance.shutdown()
        reset_collector()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        yield

    def entries(self) -> list[Entry]:
        data: Any = self.reader.get_metrics_data()
        metrics = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        points = [(metric, point) for metric in metrics for point in metric.data.data_points]
        return [
            {
                "name": metric.name,
                "attributes": dict(point.attributes),
                "count": point.count if hasattr(point, "count") else point.value,
            }
            for metric, point in points
        ]


class SetAttr:
    """A tool of our own: plain functions in the place of redis-py's methods, by setattr."""

    modules: tuple[str, ...] = ("redis",)

    def start(self) -> None:
        import redis

        self.depth = 0
        self.seen: list[Entry] = []
        self.targets: list[tuple[Any, str]] = [
            (redis.Redis, "execute_command"),
            (redis.client.Pipeline, "execute"),
            (redis.client.Pipeline, "immediate_execute_command"),
            (redis.Connection, "send_command"),
            (redis.Connection, "send_packed_command"),
            (redis.Connection, "read_response"),
        ]
        self.undo: list[Callable[[], None]] = []
        for owner, name in self.targets:
            self.put(owner, name)

    def put(self, owner: Any, name: str) -> None:
        function, was_own = getattr(owner, name), name in vars(owner)

        def watched(instance: Any, *args: Any, **kwargs: Any) -> Any:
            call = functools.partial(function, instance)
            return self.note(name, call, instance, args, kwargs)

        setattr(owner, name, watched)
        back = functools.partial(setattr, owner, name, function)
        self.undo.append(back if was_own else functools.partial(delattr, owner, name))

    def note(self, name: str, call: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        """Note a call, how deep it is in others, and how it has ended; pass it on."""
        entry = {
            "name": f"{type(instance).__name__}.{name}",
            "depth": self.depth,
            "given": [
                repr(args),
                *(repr(item) for item in sorted(kwargs.items()) if item not in DEFAULTS),
            ],
        }
        self.seen.append(entry)
        self.depth += 1
        try:
            result = call(*args, **kwargs)
        except Exception as error:
            entry["raised"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.depth -= 1
        entry["returned"] = repr(result)
        return result

    def stop(self) -> None:
        for undo in self.undo:
            undo()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.seen.append({"name": name})
        yield

    def entries(self) -> list[Entry]:
        return list(self.seen)


class Wrapt(SetAttr):
    """The same by wrapt, which most tools use, and taken off as they do it."""

    modules: tuple[str, ...] = ("wrapt",)

    def put(self, owner: Any, name: str) -> None:
        import wrapt

        def watched(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            return self.note(name, wrapped, instance, args, kwargs)

        wrapt.wrap_function_wrapper(owner, name, watched)
        wrapper = vars(owner)[name]
        self.undo.append(functools.partial(setattr, owner, name, wrapper.__wrapped__))


TOOLS: dict[str, Any] = {
    "opentelemetry": OpenTelemetry,
    "opentelemetry-stable": StableOpenTelemetry,
    "opentelemetry-client": OpenTelemetryOfAClient,
    "sentry": Sentry,
    "ddtrace": DDTrace,
    "elastic-apm": ElasticAPM,
    "newrelic": NewRelic,
    "metrics": Metrics,
    "setattr": SetAttr,
    "wrapt": Wrapt,
}


def orders_of(tool: Any) -> tuple[str, ...]:
    """When a tool is to be loaded."""
    return getattr(tool, "orders", ORDERS)
