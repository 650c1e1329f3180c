"""Where nodes run: one file a place. So far one thread of this process."""
