"""A look before a long run: facts are gathered side by side, then judged line by line."""
