"""The kernels of CUDA, a family a file."""
