"""States that outlive a call, and arrays that are computed in pieces: files and Dask."""
