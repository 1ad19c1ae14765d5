"""What negd does with events and sessions, without sockets: intake, sessions, syncs, ledger."""
