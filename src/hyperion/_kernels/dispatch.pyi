LEVELS: tuple[str, ...]
"""Every level's name, from the lowest to the highest; a level's number is its index."""

ENVIRONMENT: str
"""The environment variable that sets the default level."""

def levels() -> tuple[str, ...]:
    """Names of the levels that this build has and this processor can run, lowest first."""

def default_level() -> str:
    """The level that runs unless another is asked for: the highest present, or what the environment names.

    Raises
    ------
    InvalidArgumentError
        If the environment names no level.
    UnsupportedError
        If the environment names a level that is absent here.
    """

def level_name(level: int) -> str:
    """The name of a level's number.

    Raises
    ------
    InvalidArgumentError
        If there is no such level.
    """

def features() -> dict[str, bool]:
    """The instruction sets that the processor has and the operating system supports, by name."""
