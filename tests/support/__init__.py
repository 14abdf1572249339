"""Servers, certificates and faults for the tests."""
