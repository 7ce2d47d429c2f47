"""The proof: what a load, a memory image and a step cost, beside pyOCD's own gdbserver.

`cases` says what is measured and what the least is that it could take; `meter` how; `servers`
puts ours, or the peer's, on a fresh board; `loads`, `trips` and `host` measure; `pictures` and
`tables` tell.
"""
