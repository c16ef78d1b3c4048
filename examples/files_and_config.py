"""File helpers, and configuration files that hold typed values and whole configurations."""

import hyperion

hyperion.create_dir("settings")
path = hyperion.join_path("settings", "run.toml")
hyperion.write_file(path, b'title = "first run"\nthreads = 2\ntemperature = 0.7\nverbose = true\n')
assert hyperion.file_exists(path)
print(hyperion.list_dir("settings"), hyperion.get_dir_name(path), hyperion.get_base_name(path))

config = hyperion.load_config(path)
print(hyperion.get_config_value(config, "threads") + 1)
hyperion.set_config_value(config, "temperature", 0.5)
try:
    hyperion.set_config_value(config, "threads", "many")
except hyperion.InvalidArgumentError as error:
    print(f"refused: {error}")

config.put(hyperion.GenerationConfig(max_length=20, seed=1))  # a section named after the class
config.save(path)
settings = hyperion.load_config(path).make(hyperion.GenerationConfig)
print(settings.max_length, settings.seed)
print(hyperion.read_file(path).decode())
