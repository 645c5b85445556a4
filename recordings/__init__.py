"""Session files: what a recording contains, writing and reading one, saving what is sound of a damaged one, and the
folder that recordings are kept in. No Redis in here."""
