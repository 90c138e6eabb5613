"""Outgoing mail: submitting, delivery, retries, and what comes of it. Receiving is smtp's, content is store's."""
