"""The Dockerfile language: from text to typed instructions with source positions. Pure, no I/O."""
