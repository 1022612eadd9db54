"""These modules make of a prompt its canonical bytes (`prompt`), and of those its fingerprint (`fingerprint`)."""
