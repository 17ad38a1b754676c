"""Where the audio lies in each container: walkers that yield its bytes without any tag. Standard library only.

The identity of a recording (indexer.fingerprint) is the digest of what they yield. Nothing here writes or decodes.
"""
