"""The SMTP server: sessions and transactions on port 25. Where addresses lead and how mail is kept is decided below."""
