"""The stages of one image: prepare, find existing results, segment, finish, record."""
