"""The proof programme: commands that break what a pool stands on, and judge every reply.

`python -m tests.proof --help` lists them. The tests beside them run a sample of each.
"""
