"""Arrays of other libraries on a GPU, the streams they are used in, and host arrays that go through a GPU."""
