"""Configuration files: typed keys in TOML, JSON or ``key = value`` lines.

Every value is an int, a float, a bool or a str under a dotted key. Tables and arrays of a file become keys with dots and
numbers (``GenerationConfig.stop.0``), and are tables and arrays again when it is saved. A configuration dataclass
of the library is the section that has the class's name: :meth:`Config.put` and :meth:`Config.make`.

The suffix says which kind a file is: ``.toml``; ``.json``; ``.conf``, ``.cfg``, ``.ini``, ``.txt`` or none for lines::

    # a comment
    threads = 2
    [GenerationConfig]
    temperature = 0.7     ; a comment, after a space
    stop.0 = "\\n"         # quotes as in JSON: for text that looks like a number, spaces at the ends, escapes
    mode = plain text
"""

from .entries import Config, ConfigEntry, ConfigType, get_config_value, load_config, set_config_value

__all__ = ["Config", "ConfigEntry", "ConfigType", "get_config_value", "load_config", "set_config_value"]
