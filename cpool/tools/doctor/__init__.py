"""`python -m cpool doctor`, and examine() for inside a program: what is wrong here?

Facts about the process, a client or pool, and its server; then findings, each with a
level, what was seen, why it matters and a fix. Nothing on the server is changed.
"""

from cpool.tools.doctor.diagnosis import Diagnosis, Finding
from cpool.tools.doctor.examination import examine

__all__ = ["Diagnosis", "Finding", "examine"]
