"""This installation: settings, listeners, TLS, rate limits, transactions, logging; accounts and mail are others' business."""
