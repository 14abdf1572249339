"""Layer 3 from outside: handshake, ledger, joined calls, who may look on."""
