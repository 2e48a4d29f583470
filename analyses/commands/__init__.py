"""The commands of `cadmus-probe`, one module per group. Options enter, a study or a library call is made, and the
place of its results is printed; heavy packages load inside the commands that need them."""
