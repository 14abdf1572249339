"""Tests of the RESP codec: replies to objects, commands to bytes."""
