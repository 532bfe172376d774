"""Twilio Programmable Voice: TwiML, Media Streams and the Calls API."""
