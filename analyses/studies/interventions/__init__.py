"""What a model holds of the machine's state, what it reads of it and what it uses: interventions on every variable."""
