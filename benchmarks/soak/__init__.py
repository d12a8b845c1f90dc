"""A soak: sockets, groups, sessions, bindings, background work for half an hour; what grows is a leak."""
