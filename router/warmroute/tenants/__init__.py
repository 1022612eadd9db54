"""Who asks, what each may, what each used: pure decisions and records. No I/O, no clock, no dice of their own."""
