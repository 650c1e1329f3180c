"""Built-in nodes: typed functions, one file a topic. Modules are imported when a prompt first needs one."""
