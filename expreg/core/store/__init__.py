"""From rows to files and back: immutable parts, one writer, any number of readers."""
