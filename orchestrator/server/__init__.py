"""The gateway: the endpoints of the engine over HTTP."""
