"""The database: its tables, and how it is opened, brought up to date and locked."""
