"""Every failure is an exception with an error code, a message that says where, and details for programs."""

from pathlib import Path

import hyperion

MODEL = Path(hyperion.__file__).with_name("data") / "shakespeare-q8_0.gguf"
seen = []
hyperion.set_error_handler(lambda code, message, context: seen.append(code))

try:
    hyperion.load_model("no-such-model.gguf")
except hyperion.HyperionIOError as error:
    print(f"{hyperion.get_error_message(error.code)}: {error}")

try:
    hyperion.load_model(MODEL, memory_budget="1MB")
except hyperion.MemoryBudgetError as error:  # names the smallest budget, with an itemised table
    print(error)

assert [hyperion.ErrorCode.IO, hyperion.ErrorCode.MEMORY] == seen
hyperion.set_error_handler(None)
