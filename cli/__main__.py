"""`python -m onnxadmm_cli`."""

from . import main

main()
