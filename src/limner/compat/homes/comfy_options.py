"""comfy.options: whether flags are read from the command line."""

args_parsing = False


def enable_args_parsing(enable: bool = True) -> None:
    """Flags are read by Limner's own command line, so this changes nothing."""
    del enable
