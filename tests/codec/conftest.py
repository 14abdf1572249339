"""Settings of the property tests: no deadlines, as other work may share the processors."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "codec", deadline=None, max_examples=int(os.environ.get("CPOOL_EXAMPLES", "100"))
)
settings.load_profile("codec")
