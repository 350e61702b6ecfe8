"""A call on arrays: arguments -> layout -> plan -> launch.

1. `whole_arrays` has each argument checked (`arguments`). An op's inputs and results are accessed through an adapter
   (`adapters`, `host_libraries`, `dlpack`), for any library, in host memory and on a GPU; ops of elements, a mask and
   one result have a shorter path for NumPy arrays.
2. `plan` gives the plan for all calls of that kind. The first of them describes the rows (`layout`) and has a backend
   make a launcher for them (`devices`).
3. Inputs that results would overwrite before they are read (`overlap`) are copied, or the results are written
   elsewhere first.
4. The launcher gets an address for each operand (`memory`) and the scale.

`row_states` does the same for states that outlive a call. `request` has the arguments as one object.
"""
