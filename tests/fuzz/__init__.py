"""Random input for every parser (`make fuzz`): it is read or refused as declared, and takes time by its length."""
