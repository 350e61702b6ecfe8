"""A call on arrays: arguments -> layout -> plan -> launch.

1. `whole_arrays` has each argument checked (`arguments`). Arrays of other libraries, and those on a GPU, are seen
   through an adapter (`adapters`, `host_libraries`, `dlpack`).
2. `plan` is asked for the plan of all calls of that kind. The first of them has the rows described (`layout`) and a
   backend make a launcher for that (`devices`).
3. Where results could lie on what is still to be read (`overlap`), they are written elsewhere first.
4. The launcher gets three addresses (`memory`) and the scale.

`row_states` does the same for states that outlive a call. `request` has the arguments as one object.
"""
