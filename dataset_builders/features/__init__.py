"""The store of cached tower outputs."""
