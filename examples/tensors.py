"""Tensors in fixed memory, from a pool, and larger than memory."""

import numpy as np

import hyperion
from hyperion import DataType, TensorAllocStrategy, TensorMemoryConfig, TensorOp

for strategy in TensorAllocStrategy:
    config = TensorMemoryConfig(
        strategy=strategy, pool_size="8MiB", stream_buffer_size="256KiB", enable_in_place=True
    )
    tensor = hyperion.create_tensor_with_memory_config(config, [1024, 512], DataType.FLOAT32)
    rows = np.linspace(-1, 1, 512, dtype=np.float32)
    for i in range(1024):  # data may come in pieces, at any offset in bytes
        hyperion.stream_tensor_data(tensor, rows, i * rows.nbytes, rows.nbytes)
    hyperion.tensor_in_place_op(tensor, TensorOp.SCALE, 2.0)
    hyperion.tensor_in_place_op(tensor, TensorOp.RELU)
    print(strategy.name, tensor.sum(), hyperion.get_tensor_memory_stats(tensor))
    tensor.close()

tensor = hyperion.Tensor.wrap(np.ones((2, 3), np.float32))  # no copy
print(tensor.numpy() * 2)
