"""The layouts, a kind of numbers a file. The folder is the registry: every module here offers `LAYOUTS`."""
