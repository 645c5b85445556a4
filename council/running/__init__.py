"""A council's processes: started, watched, restarted, ended; and finding one that runs."""
