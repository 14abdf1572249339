"""Types of the compiled slots: nothing that Python code uses by itself."""

from typing import final

@final
class Home: ...

@final
class Slots: ...

@final
class Waiter: ...
