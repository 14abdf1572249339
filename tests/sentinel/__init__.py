"""Sentinel on real servers: failovers of every kind under the identity workload."""
