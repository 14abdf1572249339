"""Types of the compiled slots: bounds of its histograms, and what Python code does not use."""

from typing import final

@final
class Home: ...

@final
class Slots: ...

@final
class Waiter: ...

def set_caching(connection_class: type) -> None: ...

BUCKET_ENDS_S: tuple[float, ...]
