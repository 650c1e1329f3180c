"""The routes, one topic a file; each file has `ROUTES`. A file dropped here is served."""
