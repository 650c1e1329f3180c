"""The forms of quantized files, one a file. The folder is the registry: every module here offers `FORM`."""
