"""Where cells are measured: in this process, or many at once by Ray. An executor is one file. May import ``benchmark.measure``."""
