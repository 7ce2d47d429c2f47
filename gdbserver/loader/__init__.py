"""External loaders: what a file promises, and calling its routines on the core.  Blocking."""
