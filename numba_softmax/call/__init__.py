"""A call on arrays: arguments -> layout -> plan -> launch."""
