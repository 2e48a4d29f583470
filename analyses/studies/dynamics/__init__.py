"""When each variable becomes readable over training, before or after the behaviour is right."""
