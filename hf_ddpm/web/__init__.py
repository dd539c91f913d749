"""A trained model as a web page: the network runs in the visitor's browser."""
