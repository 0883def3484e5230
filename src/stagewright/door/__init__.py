"""The door to privilege: a child process in a user namespace of its own, where an ordinary user is root."""
