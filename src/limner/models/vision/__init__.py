"""Vision encoders: pictures to vectors. Each file that has a `VISION` is one kind; the rest is what they share."""
