"""What the pages of all studies share: the page itself (`report` and its templates), figures in one theme
(`figures`), how sites are named (`sites`), and what a model completes and how it was trained (`behaviour`). Tables
enter, pages leave."""
