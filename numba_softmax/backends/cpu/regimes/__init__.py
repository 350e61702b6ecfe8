"""The kernels of the CPU, a family a file."""
