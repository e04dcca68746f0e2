"""How fast is this machine really? Measures devices and links through Paddle and writes a calibration file."""
