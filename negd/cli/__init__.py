"""negctl: a running negd by its control service, and event stores by their store strings.

Each command is a module.  What a command needs is imported when it runs: gRPC for those that ask
a daemon, the reactor and the storage for those that open a store.
"""
