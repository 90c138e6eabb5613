"""Mail in a browser. Rules about mail are the domain packages'; what all pages share is in `web`."""
