"""FreeSWITCH: mod_audio_fork, jambonz and mod_audio_stream."""
