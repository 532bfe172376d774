"""The ways to reach a bot: SIP, a carrier's media stream, the agent link. All give the caller the same line."""
