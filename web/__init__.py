"""What all web pages share: HTTP itself, the request pipeline, login, sessions, the look. What they show is theirs."""
