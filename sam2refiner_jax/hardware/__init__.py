"""What compiled programs cost on which chips, by their compiler and the published speeds."""
