"""The page on which one program is looked into, live and without a server.

A checkpoint and a program enter; one self-contained HTML file leaves, in which the machine and the model run: `payload`
(the weights in half precision, and what is said of the model), `readings` (linear probes of what lies in each place),
`heads` (what each head attends along), `presets` (programs that show something), and `build`, which puts them and the
modules of `page/` (HTML, CSS, JavaScript) into one file.
"""
