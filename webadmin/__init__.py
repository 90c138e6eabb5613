"""Administration of the server in a browser. Rules are the domain packages'; what all pages share is in `web`."""
