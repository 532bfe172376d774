"""What a call was like, from what was on the wire."""
