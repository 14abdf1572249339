"""Types of the arguments that pools, connections and clients hand on, for type checkers.

An editor completes from them what stands behind `**kwargs`, and a type checker finds
misspelt names. They describe redis-py 8.1; an older one refuses what it does not know.
Nothing here is needed at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import queue
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from redis.cache import CacheConfig, CacheFactoryInterface, CacheInterface
    from redis.cluster import ClusterNode, LoadBalancingStrategy
    from redis.commands.policies import PolicyResolver
    from redis.connection import ConnectionPool
    from redis.credentials import CredentialProvider
    from redis.driver_info import DriverInfo
    from redis.event import EventDispatcher
    from redis.himport import HImportRegistry
    from redis.maint_notifications import (
        MaintenanceState,
        MaintNotificationsConfig,
        MaintNotificationsPoolHandler,
        OSSMaintNotificationsHandler,
    )
    from redis.retry import Retry

__all__ = [
    "ClientArguments",
    "ClusterArguments",
    "ConnectionArguments",
    "PoolArguments",
    "RedisArguments",
    "RedisClusterArguments",
    "SentinelArguments",
    "SentinelPoolArguments",
    "TCPConnectionArguments",
    "TLSConnectionArguments",
    "UnixConnectionArguments",
    "UrlArguments",
]


class _CommonArguments(TypedDict, total=False):
    """What `redis.Redis` and redis-py's connections both take, and cpool's limits."""

    socket_read_size: int
    retry: Retry | None
    retry_on_timeout: bool
    retry_on_error: Iterable[type[Exception]] | None
    encoding: str
    encoding_errors: str
    decode_responses: bool
    health_check_interval: float
    client_name: str | None
    lib_name: str | None
    lib_version: str | None
    driver_info: DriverInfo | None
    username: str | None
    redis_connect_func: Callable[[Any], object] | None
    credential_provider: CredentialProvider | None
    protocol: int | None
    legacy_responses: bool
    event_dispatcher: EventDispatcher | None
    oss_cluster_maint_notifications_handler: OSSMaintNotificationsHandler | None
    max_bulk_bytes: int
    max_nesting_depth: int


class ConnectionArguments(_CommonArguments, total=False):
    """What every connection takes; redis-py's pools set the last seven themselves."""

    db: int
    password: str | None
    socket_timeout: float | None
    socket_connect_timeout: float | None
    parser_class: type
    command_packer: Any
    maint_notifications_pool_handler: MaintNotificationsPoolHandler | None
    maintenance_state: MaintenanceState
    maintenance_notification_hash: int | None
    orig_host_address: str | None
    orig_socket_timeout: float | None
    orig_socket_connect_timeout: float | None
    himport_registry: HImportRegistry | None


class _KeepaliveArguments(TypedDict, total=False):
    socket_keepalive: bool | None
    socket_keepalive_options: Mapping[int, int | bytes] | None


class _TLSArguments(TypedDict, total=False):
    ssl_keyfile: str | None
    ssl_certfile: str | None
    ssl_cert_reqs: str | ssl.VerifyMode
    ssl_include_verify_flags: list[ssl.VerifyFlags] | None
    ssl_exclude_verify_flags: list[ssl.VerifyFlags] | None
    ssl_ca_certs: str | None
    ssl_ca_data: str | None
    ssl_check_hostname: bool
    ssl_ca_path: str | None
    ssl_password: str | None
    ssl_validate_ocsp: bool
    ssl_validate_ocsp_stapled: bool
    ssl_ocsp_context: Any
    ssl_ocsp_expected_cert: str | None
    ssl_min_version: ssl.TLSVersion | int | None
    ssl_ciphers: str | None


class UnixConnectionArguments(ConnectionArguments, total=False):
    """Keywords of `cpool.UnixDomainSocketConnection`, besides `path`."""

    maint_notifications_config: MaintNotificationsConfig | None


class TCPConnectionArguments(UnixConnectionArguments, _KeepaliveArguments, total=False):
    """Keywords of `cpool.Connection`, besides `host` and `port`."""

    socket_type: int


class TLSConnectionArguments(TCPConnectionArguments, _TLSArguments, total=False):
    """Keywords of `cpool.SSLConnection`, besides `host` and `port`."""


class _PoolOptions(TypedDict, total=False):
    """cpool's own."""

    max_waiting: int | None
    order: Literal["lifo", "fifo"]
    retry_policy: Literal["redis-py", "safe"]
    name: str | None
    min_idle: int
    max_idle_time: float | None
    max_lifetime: float | None
    max_connecting: int | None


class PoolArguments(
    ConnectionArguments, _KeepaliveArguments, _TLSArguments, _PoolOptions, total=False
):
    """What a pool takes besides redis-py's own arguments of pools: cpool's options, and what
    is for its connections, of whichever class, and for their cache."""

    host: str
    port: int
    path: str
    socket_type: int
    ssl: bool
    cache: CacheInterface | None
    cache_config: CacheConfig | None


class _LimitedPoolArguments(PoolArguments, total=False):
    max_connections: int | None
    cache_factory: CacheFactoryInterface | None
    maint_notifications_config: MaintNotificationsConfig | None
    timeout: float | None


class SentinelPoolArguments(_LimitedPoolArguments, total=False):
    """Keywords of `cpool.SentinelConnectionPool`, besides those of the sentinels."""

    master_check_interval: float | None


class SentinelArguments(SentinelPoolArguments, total=False):
    """Keywords of `cpool.Sentinel` and its clients: those of their pools."""

    check_connection: bool
    connection_class: Callable[..., Any]


class UrlArguments(_LimitedPoolArguments, total=False):
    """Keywords of a pool's `from_url`. queue_class: of `BlockingConnectionPool` only."""

    queue_class: type[queue.Queue[Any]]


class ClientArguments(
    _CommonArguments, _KeepaliveArguments, _TLSArguments, _PoolOptions, total=False
):
    """Keywords of `cpool.Redis`, besides what it also takes by position."""

    connection_pool: ConnectionPool | None
    unix_socket_path: str | None
    ssl: bool
    max_connections: int | None
    single_connection_client: bool
    cache: CacheInterface | None
    cache_config: CacheConfig | None
    maint_notifications_config: MaintNotificationsConfig | None
    timeout: float | None


class RedisArguments(ClientArguments, total=False):
    """All keywords of `cpool.Redis`: what a subclass of it hands on."""

    host: str
    port: int
    db: int
    password: str | None
    socket_timeout: float | None
    socket_connect_timeout: float | None


class _NodeArguments(
    _CommonArguments, _KeepaliveArguments, _TLSArguments, _PoolOptions, total=False
):
    """What `cpool.RedisCluster` hands on to the pool of each node."""

    password: str | None
    socket_timeout: float | None
    socket_connect_timeout: float | None
    socket_type: int
    ssl: bool
    parser_class: type
    command_packer: Any
    connection_class: Callable[..., Any]
    connection_pool_class: Callable[..., Any]
    queue_class: type[queue.Queue[Any]]
    max_connections: int | None
    timeout: float | None
    cache_factory: CacheFactoryInterface | None


class ClusterArguments(_NodeArguments, total=False):
    """Keywords of `cpool.RedisCluster`, besides what it also takes by position, and `url`."""

    cluster_error_retry_attempts: int
    require_full_coverage: bool
    reinitialize_steps: int
    read_from_replicas: bool
    load_balancing_strategy: LoadBalancingStrategy | None
    dynamic_startup_nodes: bool
    address_remap: Callable[[tuple[str, int]], tuple[str, int]] | None
    cache: CacheInterface | None
    cache_config: CacheConfig | None
    policy_resolver: PolicyResolver
    maint_notifications_config: MaintNotificationsConfig | None


class RedisClusterArguments(ClusterArguments, total=False):
    """All keywords of `cpool.RedisCluster`: what a subclass of it hands on."""

    host: str | None
    port: int
    startup_nodes: list[ClusterNode] | None
    url: str | None
