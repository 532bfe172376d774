"""SIP calls of this gateway: trunks, ports, registrations, and each call's leg."""
