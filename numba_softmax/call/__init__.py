"""A call on arrays: arguments -> layout -> plan -> launch.

1. `whole_arrays` has each argument checked (`arguments`). What an op reads and writes is seen through an adapter
   (`adapters`, `host_libraries`, `dlpack`), for any library, in host memory and on a GPU; ops of elements, a mask and
   one result have a shorter way for arrays of NumPy's.
2. `plan` is asked for the plan of all calls of that kind. The first of them has the rows described (`layout`) and a
   backend make a launcher for that (`devices`).
3. What results could lie on before it is read (`overlap`) is copied, or they are written elsewhere first.
4. The launcher gets an address for each operand (`memory`) and the scale.

`row_states` does the same for states that outlive a call. `request` has the arguments as one object.
"""
