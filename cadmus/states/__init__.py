"""What a probe may be asked of the machine: `variables` (the state at every token), `hindsight` (states that later
tokens decide) and `alternatives` (other machines, at graded distance). Programs and traces enter, labels leave."""
