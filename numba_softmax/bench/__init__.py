"""The measurements of ``numba-softmax bench``, compared with a copy of the same bytes and with other libraries.

=================  ===============================================================
module             measures
=================  ===============================================================
`cpu`              a table of cases on the CPU
`sweep`            softmax over row lengths and inner axes
`cold`             imports and first calls in new processes
`cuda`             a table of cases on a GPU, and the time before it has work
`scaling`          files through memory maps, Dask arrays on worker processes
=================  ===============================================================

Each has `measured`, whose result can be written as JSON, and `lines` and `figure`, which
show such a result; those of `cuda` are in `cuda_report`. `cases` is shared by the two
tables. `timing`, `reference` and `new_process` are clocks and references that
import nothing of the package: the benchmarks of ``asv_benchmarks/`` load them alone.
"""
