"""`sm-eval report`: evaluations beside each other and beside published results, as HTML, Markdown and LaTeX."""
