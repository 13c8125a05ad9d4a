"""From a module to a functional graph of aten operators, with everything in the model left as it was."""
