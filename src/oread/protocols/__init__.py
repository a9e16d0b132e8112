"""Hold the sans-I/O machines: bytes in, messages out, and back."""
