"""`comfyui_version`: the version of ComfyUI whose contract this is."""

COMFYUI_VERSION = "0.3.69"
