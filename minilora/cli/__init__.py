"""The `minilora` commands, one file each; `app` finds and runs them."""
