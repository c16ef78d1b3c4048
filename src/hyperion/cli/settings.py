"""A configuration file as a command uses it."""

from __future__ import annotations

import dataclasses
from typing import Any

import click
from click.core import ParameterSource

from hyperion.cli.common import ENGINE, settings_of
from hyperion.errors import InvalidArgumentError

ENGINE_SECTION = "load_model"

config_option = click.option(
    "-c", "--config", "config_file", metavar="FILE", help="Settings from a .toml, .json or key = value file; options win."
)


class Settings:
    """What the file of `--config` says; without a file, nothing.

    Every configuration class of the library may have its section, as one file may serve several programs; what this command
    has no use for is only checked.
    """

    def __init__(self, path: str | None) -> None:
        import hyperion

        self.path: str | None = None
        self.engine: dict[str, Any] = {}
        self.configs: dict[str, Any] = {}
        if path is None:
            return
        file = hyperion.load_config(path)
        classes = {n: getattr(hyperion, n) for n in hyperion.__all__ if n.endswith("Config")}
        known = [ENGINE_SECTION, *(name for name, cls in classes.items() if dataclasses.is_dataclass(cls))]
        for name in dict.fromkeys(entry.key.partition(".")[0] for entry in file):
            if name not in known or name not in file.sections:
                raise InvalidArgumentError(f"{path} has the section {name!r}; known are {', '.join(known)}")
        self.engine = file.section(ENGINE_SECTION)
        for name in self.engine:
            if name not in (*ENGINE, "path"):
                raise InvalidArgumentError(f"{path}: {ENGINE_SECTION} has no {name!r}; it has path, {', '.join(ENGINE)}")
        self.path = self.engine.pop("path", None)
        if not isinstance(self.path, (str, type(None))):
            raise InvalidArgumentError(f"{path}: {ENGINE_SECTION}.path is {self.path!r}, expected text")
        made = (file.make(classes[name], name) for name in file.sections if name != ENGINE_SECTION)
        self.configs = {type(config).__name__: config for config in made}  # a class may have two names

    def of(self, options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """What `load_model` takes, and the GenerationConfig: the file's, with the options that stand on the command line."""
        from hyperion import GenerationConfig

        engine, generation = settings_of(options)
        source = click.get_current_context().get_parameter_source
        engine = {name: v for name, v in engine.items() if name not in self.engine or source(name) is ParameterSource.COMMANDLINE}
        file = self.configs.get("GenerationConfig")
        if file is not None:
            generation = {name: v for name, v in generation.items() if source(name) is ParameterSource.COMMANDLINE}
        return {**self.engine, **engine}, GenerationConfig.merge(file, generation)

    def prepare(self) -> None:
        """Set up the process's memory, before a model is loaded."""
        from hyperion import init_memory

        if config := self.configs.get("MemoryConfig"):
            init_memory(config)

    def apply(self, model: Any) -> None:
        """Hand its parts' settings to an open model."""
        from hyperion import MemoryOptimizer

        if config := self.configs.get("MemoryOptimizerConfig"):
            with MemoryOptimizer(config) as optimizer:
                optimizer.optimize_memory_usage(model, model.plan.budget)
        if config := self.configs.get("ProgressiveLoaderConfig"):
            model.loader.config = config
            model.loader.apply_window()
        if config := self.configs.get("LayerSchedulerConfig"):
            model.scheduler.config = config
