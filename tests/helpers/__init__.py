"""What several test files use: sounds, checkpoints, libraries, servers, clusters and watchers made for a test."""
