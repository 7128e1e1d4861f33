"""Steps that train, and what they check and draw."""
