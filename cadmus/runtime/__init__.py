"""What every stage runs on."""
