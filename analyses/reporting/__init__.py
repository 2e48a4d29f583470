"""What the pages of all studies share: the page itself (`report` and its templates, `grids`, `links`, `images`), links
between pages (`library`), figures in one theme (`figures`), how sites are named (`sites`), what a model completes and
how it was trained (`behaviour`), and measurements that are kept (`stored`). Tables enter, pages leave."""
