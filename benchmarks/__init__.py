"""Benchmarks of convfirst_ext against its peers: one script a question, one shared timer."""
