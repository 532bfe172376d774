"""The service: calls, playout, routing, configuration, HTTP, store, recording, command line."""
