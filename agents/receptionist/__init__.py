"""The offline receptionist: its dialogue, which is data, and the agent that holds it."""
