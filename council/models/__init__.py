"""The models that this machine can use, which of them a council serves, and fetching one."""
