"""The IMAP server as clients see it: transcripts, protocol tests by topic, real mail programs, and a stress run."""
