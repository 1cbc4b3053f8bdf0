"""Where tasks take their examples from: generators too slow for every batch, and the shards that keep what they made."""
