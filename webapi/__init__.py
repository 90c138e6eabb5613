"""Mail for programs over HTTP and JSON: sending, reading what came in, the suppression list. It holds no policy."""
