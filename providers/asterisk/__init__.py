"""Asterisk: AudioSocket, chan_websocket and ARI."""
