"""Parts of list readers: opening, JSON values, fields within a column."""
