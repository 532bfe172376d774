"""RTP: packets, jitter, loss, encryption, keys and quality of one call's audio."""
