"""Coverage-guided fuzzing with atheris: `make fuzz T=60` gives each target 60 seconds."""
