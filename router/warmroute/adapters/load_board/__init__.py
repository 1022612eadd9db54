"""This package carries what each router has under way to the other routers."""
