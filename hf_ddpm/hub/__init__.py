"""Publishing: model cards rendered from run folders, and their upload to the Hub in one commit."""
