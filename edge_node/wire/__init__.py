"""Vocabulary of the mesh: ids, messages, topics, and the codec between messages and sealed parcels."""
