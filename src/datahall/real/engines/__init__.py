"""The same training on three engines behind one interface: PyTorch, TensorFlow and JAX, one file each.

`engine` is the interface, `input` the batches that all of them read, `worker` the program of one process, `launcher`
starts the processes, `runs` measures a training and `probe` its costs beforehand.  Only the file of an engine imports
that engine.  A dense network with Adam in single precision; other models train on PyTorch by `real.training`.
"""
