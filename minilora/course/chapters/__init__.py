"""The exercises of the chapters, a package each."""
