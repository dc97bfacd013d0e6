"""The version of this package. It must equal the binary's: they speak a private language with each other."""

__version__ = "0.1.0"
