"""What the chapters of part 5 use: speed, several processes, export, and the service."""
