"""What a GPU alone can tell; on a CPU the same functions run at toy size."""
