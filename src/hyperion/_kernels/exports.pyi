from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Exporter:
    exported: Any
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def no_buffer(self) -> str: ...
