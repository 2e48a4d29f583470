"""What every stage runs on: `artifacts` (folders that are whole or absent), `seeds`, `devices` (what this machine is
fast at), `threads` and `progress`."""
