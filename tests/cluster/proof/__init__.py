"""The identity workload on clusters whose nodes fail, move their slots and change their roles."""
